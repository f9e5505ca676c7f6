"""Resume by the real command: killed, refused, gone on with, finished."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from longtake.framework.engine.run_folder import RunFolder
from tests.cli.command import latents_of, predict, run_here, start, tiny_options


def options(model: Path) -> list[str]:
    own = tiny_options(model)
    own[own.index("37")] = "145"
    return [*own, "--keep_latents", "all", "--snapshot_seconds", "0.001", "--progress", "plain"]


def test_a_killed_run_goes_on_with_no_other_option(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    done = predict(*options(model), "--output", whole)
    assert done.returncode == 0, done.stderr
    with start("predict", *options(model), "--output", out) as process:
        for line in process.stderr:
            if "event=block_end" in line and "block=3 " in line:
                second = run_here(
                    capsys, "predict", *options(model), "--output", out, "--overwrite", "true"
                )
                process.kill()
                break
    # The second run may have come when the first one was through: then it says nothing of it.
    if process.wait() == -9:
        assert second.returncode == 2
        assert f"going on (process {process.pid} on " in second.stderr
    monkeypatch.chdir(tmp_path)
    changed = run_here(capsys, "predict", "--resume", out, "--model.steps", "4")
    assert changed.returncode == 2
    assert "model.steps: 3 -> 4" in changed.stderr
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    weights = moved / "vae" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    retrained = run_here(capsys, "predict", "--resume", out, "--model.pipeline", moved)
    assert retrained.returncode == 2
    assert "vae/diffusion_pytorch_model.safetensors of the model elsewhere" in retrained.stderr
    weights.write_bytes(content)
    again = predict("--resume", "out", "--model.pipeline", moved)
    assert again.returncode == 0, again.stderr
    video = Path("0000") / "video.mp4"
    assert (out / video).read_bytes() == (whole / video).read_bytes()
    expected = latents_of(whole)
    assert [block.tolist() for block in latents_of(out)] == [block.tolist() for block in expected]
    assert not RunFolder(out).path.joinpath(".lock").exists()
    assert f"pipeline: {moved}\n" in (out / "config.yaml").read_text()
    finished = run_here(capsys, "predict", "--resume", out)
    assert finished.returncode == 0
    assert finished.stderr == f"longtake: the run in {out} is finished.\n"
    (out / video).write_bytes((out / video).read_bytes()[:-1])
    changed = run_here(capsys, "predict", "--resume", out)
    assert changed.returncode == 2
    assert f"is finished, but {out / video} was changed since" in changed.stderr


def test_a_folder_without_a_run_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_here(capsys, "predict", "--resume", tmp_path)
    assert refused.returncode == 2
    assert f"there is no run of longtake to resume in {tmp_path}" in refused.stderr
