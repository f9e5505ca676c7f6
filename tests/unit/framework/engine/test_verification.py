"""``longtake verify``: two steps against diffusers' own pipeline, on folders of random weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.framework import standalone_commands
from longtake.framework.console.verify_report import report, show
from longtake.framework.engine import verification
from longtake.framework.engine.verification import Verdict, verify
from longtake.framework.main import main
from longtake.testing.tiny.published import published_folder

CPU: Final = torch.device("cpu")
ROOT: Final = Path(__file__).parents[4]
# diffusers runs Mochi's rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")


@pytest.mark.parametrize(
    "name", ["Wan2.1-T2V", "SkyReels-V2-T2V", "HunyuanVideo", "CogVideoX-2b", "mochi-1-preview"]
)
def test_a_model_is_its_pipeline(name: str, tmp_path: Path) -> None:
    path = str(published_folder(name, tmp_path / name).path)
    verdict = verify(path, "float32", CPU, 64, 96)
    assert verdict.equal
    assert verdict.difference <= 1e-5, "on small weights it is rounding alone"


def test_another_computation_is_not_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(published_folder("Wan2.1-T2V", tmp_path / "wan").path)
    noise = verification._noise

    def other(*given: object) -> Tensor:
        return noise(*given) * 1.01  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "_noise", other)
    assert not verify(path, "float32", CPU, 64, 96).equal


def test_a_pipeline_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path = str(published_folder("Wan2.1-I2V", tmp_path / "i2v").path)
    with pytest.raises(ConfigurationError, match="WanImageToVideoPipeline, which verify cannot"):
        verify(path, "float32", CPU, 64, 96)


VERDICT: Final = Verdict(
    model="someone/Wan",
    revision="0" * 40,
    pipeline="WanPipeline",
    dtype="bfloat16",
    device="cpu",
    size=(9, 320, 512),
    difference=0.004,
    limit=0.05,
)


def test_a_report_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(VERDICT) == 0
    said = capsys.readouterr().out
    for part in ("equal", f"someone/Wan @ {'0' * 40}", "4.0e-03", "9 frames of 512 x 320", "torch"):
        assert part in said
    for difference in (0.06, float("nan")):
        worse = replace(VERDICT, difference=difference)
        assert show(worse) == 1
        assert "not equal" in report(worse)


def test_the_readme_counts_the_models_that_are_verified() -> None:
    page = (ROOT / "docs/verified.md").read_text()
    rows = re.findall(r"^\| [^|-][^|]*/[^|]* \|", page, re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert f"Models verified on real weights with `longtake verify`: {len(rows)}" in readme


def test_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def found(*given: object) -> Verdict:
        asked.extend(given)
        return VERDICT

    monkeypatch.setattr(standalone_commands, "verify_model", found)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "someone/Wan", "--dtype", "float32", "--device", "cpu", "--height", "64"])
    assert ended.value.code == 0
    assert asked == ["someone/Wan", "float32", CPU, 64, 512]
    assert capsys.readouterr().out.startswith("verdict     equal\n")
