"""Bad input: one sentence, exit status 2, before any weight is read and before anything is made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from longtake import caches
from longtake.framework.main import main
from longtake.models.loading import weights
from longtake.testing.tiny.base import tiny_wan_folder

Refused = Callable[..., str]
"""Runs the command with some options, which it must refuse, and returns its sentence."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


@pytest.fixture
def refused(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refused:
    """Return a function that runs the command and returns its sentence."""

    def no_weights(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(weights, "safe_open", no_weights)

    def run(*arguments: str) -> str:
        settings = {
            "--model.pipeline": str(model),
            "--data.prompts": "red shape",
            "--data.height": "32",
            "--data.width": "48",
            "--trainer.accelerator": "cpu",
            "--output": str(tmp_path / "out"),
        }
        settings.update(zip(arguments[::2], arguments[1::2], strict=True))
        with pytest.raises(SystemExit) as ended:
            main(["predict", *(word for pair in settings.items() for word in pair)])
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed.err
        assert printed.out == ""
        assert printed.err.startswith("longtake: error: ")
        assert printed.err.count("\n") == 1, printed.err
        assert not (tmp_path / "out").exists()
        return printed.err.removeprefix("longtake: error: ").strip()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model.stepz", "3"), "there is no option model.stepz; the nearest is model.steps"),
        (("--model.steps", "0"), "model.steps is 0, but at least 1 step"),
        (("--model.steps", "1001"), "model.steps is 1001, but the model was trained with 1000"),
        (("--data.height", "65552"), "data.height is 65552, but a picture has at most 65,536"),
        (("--data.fps", "2147483648"), "data.fps is 2147483648, but a video has at most 1000"),
        (("--trainer.num_nodes", "9" * 30), "and no run has more than 1,024 ranks"),
        (("--model.steps", "many"), "model.steps is many, but it must be a whole number"),
        (("--model.dtype", "fp8"), "must be one of float32, bfloat16, float16"),
        (("--model.scheduler", "Fifo"), "no BlockScheduler; the nearest is FifoQueue"),
        (("--model.cache", "SameKV"), "no FeatureCache; the nearest is SameStepKV"),
        (("--trainer.strategy", "Single"), "no ParallelStrategy; the nearest is SingleDevice"),
        (("--model.scheduler.strode", "2"), "no option strode; did you mean stride?"),
        (("--model.scheduler.stride", "0"), "stride is 0; the smallest is 1"),
        (("--model.scheduler.context_frames", "9"), "choose 0 to 8"),
        (("--model.pipeline", "no/such/folder"), "no such folder"),
        (("--model.attention", "flush"), "the nearest backend is flash"),
        (("--model.attention", "flash"), "does not run on cpu"),
        (("--model.flow_shift", "0"), "flow_shift is 0, but it must be above 0"),
        (("--model.sampler", "HeunDiscreteScheduler"), "longtake needs one run per step"),
        (("--model.sampler", "UniPC"), "UniPC is no scheduler of diffusers"),
        (
            ("--model.sampler", "{scheduler: UniPCMultistepScheduler, options: {solver_ordr: 3}}"),
            "UniPCMultistepScheduler has no option solver_ordr; the nearest is solver_order",
        ),
        (
            (
                "--model.sampler",
                "{scheduler: UniPCMultistepScheduler, options: {solver_order: [3]}}",
            ),
            "give names and values, such as {stochastic_sampling: true}",
        ),
        (("--model.timesteps", "[500, 750]"), "750 follows 500: they go down"),
        (("--model.timesteps", "[1000, some]"), "list of numbers that go down, such as [1000, 750"),
        (
            ("--model.timesteps", "[1000, 500]", "--model.steps", "3"),
            "model.steps is 3, but model.timesteps has 2",
        ),
        (("--model.guidance_scale_2", "3"), "has one expert"),
        (("--data.height", "70"), "a multiple of 16 pixels"),
        (("--data.width", "8"), "the nearest are 16 and 32"),
        (("--data.num_frames", "34"), "makes 1 + 4 n frames; the nearest are 33 and 37"),
        (("--data.num_frames", "0"), "the nearest are 1 and 5"),
        (("--data.fps", "0"), "data.fps is 0"),
        (("--data.prompts", "null"), "data.prompts is empty"),
        (("--model.start_noise", "1.5"), "start_noise is 1.5, but it is a share: choose 0 to 1"),
        (("--data.start", "none.png"), "data.start is none.png, but there is no such file"),
        (("--data.start", "pyproject.toml"), "pyproject.toml, which holds no video"),
        (("--data.start", "docs/demo.gif", "--data.start_frames", "6"), "nearest are 5 and 9"),
        (("--data.start", "docs/demo.gif", "--data.start_frames", "85"), "the most is 77"),
        (("--data.prompts", " "), "prompt 0 in data.prompts is empty"),
        (("--data.prompts", "none.txt"), "the prompt file none.txt cannot be read"),
        (
            ("--data.prompts", "[{at: 0, text: bird}, {at: 1, text: sea}]"),
            "looks like a prompt sch",
        ),
        (("--data.prompts", "[[{at: 0, text: bird}, {at: 99, text: sea}]]"), "would never be seen"),
        (("--data.prompts", "prompts.csv"), "read from .txt"),
        (("--data.num_frames", "5s"), "give a whole number, null for an endless video"),
        (("--data.prompts", "[[{at: 3, text: bird}]]"), "a schedule starts at 0"),
        (
            ("--trainer.devices", "2", "--trainer.strategy", "SingleDevice"),
            "SingleDevice denoises on 1 device, but 2 were asked for",
        ),
        (
            (
                *("--trainer.devices", "2", "--trainer.strategy", "DualParal"),
                *("--trainer.strategy.stages", "3"),
            ),
            "stages 3 is impossible on 2 devices",
        ),
        (("--trainer.strategy", "DualParal", "--trainer.strategy.stagez", "3"), "stages"),
        (("--trainer.strategy.stages", "3"), "give a class before its options"),
        (
            ("--trainer.devices", "11", "--trainer.strategy", "DualParal"),
            "11 devices cannot share the 4 layers",
        ),
        (("--trainer.devices", "0"), "trainer.devices is 0"),
        (("--trainer.accelerator", "tpu"), "must be one of auto, cpu, cuda"),
        (("--video.zoom", "0"), "video.zoom is 0"),
        (("--video.zoom", "400"), "holds at most 16383"),
        (("--config", "none.yaml"), "config: File does not exist"),
        (("--config", "docs"), "docs, a folder; give a YAML file."),
        (("--model.zzzzzz", "3"), "no option model.zzzzzz; --help of the command lists all."),
        (("--seed", "3"), "there is no option seed; the nearest is data.seed."),
        (("extra", "word"), "extra is no option: options begin with --"),
        (("--data.prompts", "1917"), "which reads as a number; write a prompt of that text"),
        (("--data.prompts", "yes"), "which reads as true or false; write a prompt of that"),
        (("--data.prompts", '["a", 1917]'), "a list of which not all are texts"),
        (("--data.prompts", "[1917]"), "a list of which not all are texts"),
        (("--data.prompts", "[[a]]"), "a list of which not all are texts"),
        (("--data.prompts", ""), "prompt 0 in data.prompts is empty"),
        (("--data.prompts", "docs"), "there is a folder of that name"),
        (("--data.keyframes", "[a.png]"), "give a list of moments and pictures: [{at: 12.5"),
        (("--data.keyframes", "[{at: 3}]"), "a part of data.keyframes has no image; give a list"),
        (("--model.cache", "Qqqq"), "no FeatureCache (of "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(
    refused: Refused, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[]", 'line 2: must be an object with a "prompt"'),
        ('{"prompt": "x", "sed": 1}', "line 2: unknown key 'sed'; the nearest is seed; a line has"),
        ('{"prompt": "x", "lorem": 1}', "line 2: unknown key 'lorem'; a line has prompt, num_fra"),
        ('{"prompt": "x", "seed": null}', "line 2: seed cannot be None"),
        ('{"prompt": "x", "seed": "1"}', "line 2: seed cannot be '1'"),
        ('{"prompt": "x", "seed": true}', "line 2: seed cannot be True"),
        ('{"prompt": [{"text": "x"}]}', "line 2:"),
    ],
)
def test_a_bad_line_of_a_prompt_file_is_named(
    refused: Refused, tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "bird"}}\n{line}\n')
    assert words in refused("--data.prompts", str(file))


def test_text_that_is_not_utf8_is_named_with_its_line(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"bird\n\xff\xfe\n")
    assert "line 2: not UTF-8" in refused("--data.prompts", str(file))


def test_an_unregistered_family_names_the_nearest(
    refused: Refused, model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "WangPipeline"}))
    sentence = refused("--model.pipeline", str(other))
    assert "WangPipeline, which is not registered; the nearest registered pipeline is" in sentence
    assert "docs/new-backbone.md" in sentence


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_pickled_weights_are_refused(
    refused: Refused, model: Path, tmp_path: Path, component: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    for file in (other / component).glob("*.safetensors"):
        file.rename(file.with_name("weights.bin"))
    assert "weights.bin, a pickle" in refused("--model.pipeline", str(other))


def test_broken_weights_are_named(refused: Refused, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (file,) = (other / "vae").glob("*.safetensors")
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in refused("--model.pipeline", str(other))
    file.write_bytes(b"\x08")
    assert "is no whole safetensors file" in refused("--model.pipeline", str(other))


def test_a_cache_that_cannot_fit_is_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10_000))
    sentence = refused("--model.cache", "SameStepKV", "--data.num_frames", "257")
    assert "with SameStepKV the run needs" in sentence
    assert "GiB of keys and values" in sentence


def test_a_folder_that_holds_something_is_not_written_into(
    refused: Refused, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious.txt").write_text("mine")
    assert "--overwrite true" in refused("--output", str(taken))
    assert (taken / "precious.txt").read_text() == "mine"


def test_a_file_is_no_output_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("--output", str(tmp_path / "file"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_device_that_is_not_there_is_refused(refused: Refused) -> None:
    sentence = refused("--trainer.accelerator", "cuda")
    assert "trainer.accelerator is cuda" in sentence
    assert "this machine cannot give" in sentence


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--data.prompts", "bird"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "longtake: error: model.pipeline is missing: give it in the YAML file or as "
        "--model.pipeline. [LT-CONFIG]\n"
    )


def test_unknown_keys_in_yaml_are_refused_like_options(refused: Refused, tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text("model: {pipeline: demo, stepz: 3}\n")
    assert "no option model.stepz; the nearest is model.steps" in refused("--config", str(config))


@pytest.mark.parametrize(
    "prompts", ["1917", '["a", 1917]', "[1917]", "[[a]]", "yes", '["a", null]']
)
def test_what_is_no_text_is_refused_in_yaml_as_well(
    refused: Refused, tmp_path: Path, prompts: str
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(f"data: {{prompts: {prompts}}}\n")
    sentence = refused("--data.prompts", '["red"]', "--config", str(config))
    assert "data.prompts cannot be that; give a prompt, a list of prompts (what reads" in sentence


@pytest.mark.parametrize(
    ("text", "words"), [("", "is empty"), ("1917", "holds no options"), ("[a]", "holds no options")]
)
def test_a_configuration_without_options_is_named(
    refused: Refused, tmp_path: Path, text: str, words: str
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    sentence = refused("--config", str(config))
    assert f"the configuration {config} {words}; it holds options by name" in sentence


@pytest.mark.parametrize(("name", "text"), [("a.txt", "# birds\n"), ("a.jsonl", "")])
def test_a_prompt_file_without_prompts_is_named(
    refused: Refused, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    assert "has no prompt in it; write one on each line" in refused(
        "--data.prompts", str(tmp_path / name)
    )


def test_classes_are_listed_in_the_order_of_help(
    refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refused("--model.cache", "Qqqq")
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    said = said[said.index("known subclasses: longtake.caches") :]
    listed = re.findall(r"\w+", sentence.partition("(of ")[2].partition(";")[0])
    ours = [name for name in listed if name in caches.__all__]  # tests have others of their own
    places = [said.index(f"longtake.caches.{name}") for name in ours]
    assert len(places) > 1
    assert places == sorted(places)


def test_options_of_true_and_false_may_stand_alone(model: Path, tmp_path: Path) -> None:
    """``--overwrite`` is ``--overwrite true``."""
    out = tmp_path / "out"
    options = [
        *("--model.pipeline", str(model), "--data.prompts", "red", "--model.steps", "1"),
        *("--trainer.accelerator", "cpu", "--data.height", "32", "--data.width", "48"),
        *("--data.num_frames", "1", "--model.scheduler", "FullSequence", "--model.cache"),
        *("NoCache", "--progress", "none", "--output", str(out)),
    ]
    main(["predict", *options, "--overwrite"])
    first = (out / "0000" / "video.mp4").stat().st_mtime_ns
    main(["predict", "--overwrite", *options])
    assert (out / "0000" / "video.mp4").stat().st_mtime_ns > first
