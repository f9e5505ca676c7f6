"""Extended runs: a finished run grows, is killed at it, goes on, and grows again."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from tests.faults.cases import content_of, options
from tests.faults.forked import Ended, Fault, run_forked

METHODS = ("queue", "causal", "windows")


def extend(out: Path, frames: int, *more: str, ranks: int = 1, fault: Fault | None = None) -> Ended:
    args = ["predict", "--extend", str(out), "--data.num_frames", str(frames), *more]
    return run_forked(args, out.with_suffix(".log"), ranks, fault)


def made(model: Path, method: str, out: Path, *more: str) -> None:
    ended = run_forked(
        [*options(model, method, 1), "--output", str(out), *more], out.with_suffix(".log")
    )
    assert ended.statuses == (0,), ended.said


def report_of(out: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((out / "report.json").read_text())
    return report


def pictures(video: Path) -> int:
    with av.open(str(video)) as container:
        frames = [frame.pts for frame in container.decode(video=0)]
    assert frames == sorted(frames)
    return len(frames)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_grows_and_keeps_what_is_there(
    method: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made(model, method, out)
    before = {path: path.read_bytes() for path in sorted(out.glob("*/video.mp4"))}
    latents = content_of(out)
    ended = extend(out, 65)
    assert ended.statuses == (0,), ended.said
    for path, content in before.items():
        grown = path.read_bytes()
        assert grown.startswith(content)
        assert pictures(path) == 65
    assert latents.items() - {(str(p.relative_to(out)), latents[str(p.relative_to(out))]) for p in before} <= content_of(out).items()
    frames = torch.cat(
        [load_file(one)["latents"] for one in sorted(out.glob("0000/latents/*"))], dim=2
    )
    assert frames.shape[2] == 17
    print(json.dumps(report_of(out), indent=1)[:3000])
    print((out / "extensions.json").read_text(), (out/"config.yaml").read_text()[:500])
    print(sorted(str(p.relative_to(out)) for p in out.rglob("*")))
