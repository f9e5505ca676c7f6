"""``longtake models``: every family that is registered, and what it takes."""

from __future__ import annotations

import sys

import pytest

from longtake.framework.cli import main
from longtake.framework.models_report import lines_of, show
from longtake.models import ModelCard, registered


def listed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        main(["models"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_every_family_is_listed_with_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys)
    for pipeline in registered():
        assert any(f" pipeline={pipeline} " in line for line in lines), pipeline
    assert (
        "event=model pipeline=HunyuanVideoPipeline made_from=text guidance=either "
        "timestep_per=clip native_frames=33 decoder=overlap axes=layers,cfg,ulysses,ring "
        "examples=hunyuanvideo-community/HunyuanVideo model=HunyuanVideo"
    ) in lines
    wan = [line for line in lines if " pipeline=WanPipeline " in line]
    assert [line.partition("timestep_per=")[2].split()[0] for line in wan] == ["clip", "frame"]


def test_a_plug_in_that_says_nothing_is_listed_too() -> None:
    assert list(lines_of([ModelCard(pipeline="SketchPipeline")])) == [
        "event=model pipeline=SketchPipeline made_from=none guidance=none timestep_per=none "
        "native_frames=none decoder=none axes=layers,cfg,ulysses,ring examples=none model=none"
    ]


def test_a_terminal_gets_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show([ModelCard(pipeline="SketchPipeline", guidance="embedded", start="always")])
    shown = capsys.readouterr().out
    assert "SketchPipeline" in shown
    assert "embedded" in shown
    assert "cfg" not in shown, "there is but one branch"


def test_it_takes_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "--model.pipeline", "demo"])
    assert ended.value.code == 2
    assert "there is no option model.pipeline" in capsys.readouterr().err
