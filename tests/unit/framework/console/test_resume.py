"""Resume on the command line: what the arguments stand for, and what may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.errors import ConfigurationError, OutputError
from longtake.framework.console.resume import (
    absolute,
    absolute_lora,
    check_unchanged,
    resume_arguments,
)
from longtake.framework.engine.inputs import check_inputs, inputs_of
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.run_folder import CONFIG, CONFIG_HEADER, INPUTS, RunFolder

CONFIG_TEXT = f"""{CONFIG_HEADER} 0
model: {{steps: 3, scheduler: {{class_path: FifoQueue, init_args: {{block_frames: 3}}}}}}
data: {{seed: 1, num_frames: null}}
video: {{crf: 18}}
trainer: {{devices: 1}}
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / CONFIG).write_text(CONFIG_TEXT)
    return RunFolder(tmp_path)


def request(text: str = "a bird", **changes: object) -> Request:
    options = {"num_frames": 5, "height": 32, "width": 48, **changes}
    return Request(prompts=(PromptAt(text=text),), **options)  # type: ignore[arg-type]


def test_a_run_stands_for_its_options(run: RunFolder) -> None:
    folder = str(run.path)
    expected = ["predict", "--config", f"{folder}/{CONFIG}", "--resume", folder]
    assert resume_arguments(["predict", "--resume", folder]) == [*expected, "--output", folder]
    joined = resume_arguments(["predict", f"--resume={folder}", "--trainer.devices", "2"])
    assert joined[:3] == expected[:3]
    assert joined[-4:] == ["--trainer.devices", "2", "--output", folder]
    given = ["predict", "--config", "my.yaml", "--resume", folder]
    assert resume_arguments(given) == [*given, "--output", folder]


@pytest.mark.parametrize(
    "args", [["predict", "--resume", "auto"], ["plan", "--config", "x"], ["predict"], []]
)
def test_other_arguments_stay_as_they_are(args: list[str]) -> None:
    assert resume_arguments(args) == args


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no run of longtake to resume"):
        resume_arguments(["predict", "--resume", str(tmp_path / "none")])


def test_a_run_of_a_later_format_is_refused(run: RunFolder) -> None:
    text = CONFIG_TEXT.replace(f"{CONFIG_HEADER} 0", f"{CONFIG_HEADER} 0, format 1")
    (run.path / CONFIG).write_text(text)
    run.check_is_run()
    (run.path / CONFIG).write_text(text.replace("format 1", "format 2"))
    with pytest.raises(OutputError, match=r"is of format 2, and this version .* reads 1"):
        resume_arguments(["predict", "--resume", str(run.path)])


def test_a_changed_video_is_refused_with_what_changed(run: RunFolder) -> None:
    check_unchanged(run, CONFIG_TEXT.replace("devices: 1", "devices: 4"))
    now = CONFIG_TEXT.replace("steps: 3", "steps: 4").replace("block_frames: 3", "block_frames: 2")
    now = now.replace("num_frames: null", "num_frames: 33")
    with pytest.raises(ConfigurationError) as refusal:
        check_unchanged(run, now)
    for change in (
        "data.num_frames: None -> 33",
        "model.scheduler.init_args.block_frames: 3 -> 2",
        "model.steps: 3 -> 4",
    ):
        assert change in str(refusal.value)
    assert "devices" not in str(refusal.value)


def test_files_may_move(run: RunFolder, tmp_path: Path) -> None:
    def configured(where: str, lora: str) -> str:
        model = f"model: {{pipeline: {where}, lora: [{{path: {lora}, scale: 1.0}}]}}"
        return f"{CONFIG_HEADER} 0\n{model}\ndata: {{start: {where}/a.png, seed: 1}}\n"

    (run.path / CONFIG).write_text(configured("/a/model", "/a/lora"))
    assert not check_unchanged(run, configured("/a/model", "/a/lora"))
    assert check_unchanged(run, configured("/b/model", "/b/lora"))
    with pytest.raises(ConfigurationError, match="pipeline: '/a/model' -> 'demo'"):
        check_unchanged(run, configured("demo", "/a/lora"))
    changed = configured("/a/model", "/a/lora").replace("scale: 1.0", "scale: 2.0")
    with pytest.raises(ConfigurationError, match=r"model\.lora"):
        check_unchanged(run, changed)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"one")
    run.write_json(INPUTS, inputs_of([request(start=str(tmp_path / "a.png"))]))
    check_inputs(run, inputs_of([request(start=str(tmp_path / "b.png"))]))


@pytest.mark.parametrize(
    ("then", "now", "how"),
    [
        ({"vae/a": "1"}, {"vae/a": "2"}, "it had the checksum 1 and has 2 now"),
        ({"vae/a": "1"}, {}, "it had the checksum 1 and is not there now"),
        ({}, {"vae/a": "2"}, "it was not there, and has the checksum 2 now"),
    ],
)
def test_a_changed_model_is_refused(
    then: dict[str, str], now: dict[str, str], how: str, run: RunFolder
) -> None:
    inputs = inputs_of([request()])
    run.write_json(INPUTS, {**inputs, "model": {"name": "m", "files": then}})
    check_inputs(run, {**inputs, "model": {"name": "n", "files": then}})
    with pytest.raises(ConfigurationError, match=rf"vae/a of the model n .*\({how}\)"):
        check_inputs(run, {**inputs, "model": {"name": "n", "files": now}})


def test_a_run_of_an_earlier_format_is_refused(run: RunFolder) -> None:
    run.write_json(INPUTS, {**inputs_of([request()]), "format": 2})
    with pytest.raises(ConfigurationError, match=r"format 2, and this version of longtake reads 3"):
        check_inputs(run, inputs_of([request()]))


def test_changed_prompts_and_files_are_refused(run: RunFolder, tmp_path: Path) -> None:
    picture = tmp_path / "start.png"
    picture.write_bytes(b"one")
    run.write_json(INPUTS, inputs_of([request(), request("a fish", start=str(picture))]))
    check_inputs(run, inputs_of([request(), request("a fish", start=str(picture))]))
    with pytest.raises(ConfigurationError, match=r"seed of request 0 was 0 and is 3 now"):
        check_inputs(run, inputs_of([request(seed=3), request("a fish", start=str(picture))]))
    with pytest.raises(ConfigurationError, match="begun with 2 prompts, and now there are 1"):
        check_inputs(run, inputs_of([request()]))
    picture.write_bytes(b"two")
    with pytest.raises(ConfigurationError, match="start_checksum of request 1"):
        check_inputs(run, inputs_of([request(), request("a fish", start=str(picture))]))
    (run.path / INPUTS).write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check_inputs(run, inputs_of([request()]))


def test_names_of_files_do_not_depend_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("model") == str(tmp_path / "model")
    assert absolute("demo") == "demo"
    assert absolute(["a prompt"]) == ["a prompt"]
    assert absolute(None) is None
    assert absolute_lora(["model", {"path": "model", "scale": 0.5}]) == [
        str(tmp_path / "model"),
        {"path": str(tmp_path / "model"), "scale": 0.5},
    ]
