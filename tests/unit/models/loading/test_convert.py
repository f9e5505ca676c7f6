"""``longtake convert``: a checkpoint's tensors as safetensors, and nothing else of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longtake.errors import LongtakeError, ModelError, OutputError
from longtake.framework.main import main
from longtake.models.loading import convert as conversion
from longtake.models.loading.convert import convert


def state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.blocks.0.weight": torch.randn(3, 4, generator=generator).bfloat16(),
        "model.blocks.0.bias": torch.randn(3, generator=generator),
        "model.scale": torch.tensor(2.0),
    }


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(file: Path, expected: dict[str, Tensor]) -> bool:
    found = load_file(file)
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "bin"])
def test_a_state_dict_is_written_beside_the_checkpoint(tmp_path: Path, ending: str) -> None:
    found = convert(saved(tmp_path / f"x.{ending}", state()))
    assert found.output == tmp_path / "x.safetensors"
    assert (found.key, found.left, found.tensors, found.size) == ("", (), 3, 24 + 12 + 4)
    assert same(found.output, state())
    assert {file.name for file in tmp_path.iterdir()} == {f"x.{ending}", "x.safetensors"}


def test_the_only_state_dict_is_found_among_other_things(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3, 4)}}, "param_groups": [{"lr": 0.1}]}
    content = {"trainer": {"generator": state(1)}, "optimizer": optimizer, "step": 3}
    found = convert(saved(tmp_path / "x.pt", content), tmp_path / "to" / "y.safetensors")
    assert (found.key, found.tensors) == ("trainer.generator", 3)
    assert same(tmp_path / "to" / "y.safetensors", state(1))


def test_one_of_several_is_chosen_by_its_key(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.pt", {"generator": state(1), "generator_ema": state(2), "step": 3})
    words = r"2 state dicts \(generator, generator_ema\); choose one, such as --key generator_ema"
    with pytest.raises(ModelError, match=words):
        convert(file)
    with pytest.raises(ModelError, match=r"'generator_emma'; the nearest is generator_ema"):
        convert(file, key="generator_emma")
    found = convert(file, key="generator_ema")
    assert found.left == ("generator", "step")
    assert same(found.output, state(2))


def test_tied_and_turned_tensors_and_old_files_are_written(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    content = {"a": weight, "tied": weight, "turned": weight.T, "part": weight[1:]}
    file = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=False)
    assert same(convert(file).output, content)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.pt", {"model": state(), "where": Path("/tmp")})
    with pytest.raises(ModelError, match=r"asks for pathlib.*runs no code"):
        convert(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "is empty"),
        ([torch.ones(2)], "holds a list, but"),
        (torch.ones(2), "holds a Tensor, but"),
        ({"step": 3}, r"holds no plain state dict.*'step' is a int"),
        (
            {"weight": torch.ones(2, 2), "_extra_state": None},
            "no plain state dict.*'_extra_state' is a NoneType",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    file = saved(tmp_path / "x.pt", content)
    with pytest.raises(ModelError, match=words):
        convert(file)
    with pytest.raises(ModelError):
        convert(file, key="model")
    assert list(tmp_path.iterdir()) == [file]


def test_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.pt", state())
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "there.safetensors").write_text("mine")
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "none.pt", None, r"none.pt is no file"),
        (tmp_path / "text.pt", None, r"text.pt is no checkpoint"),
        (tmp_path / "there.safetensors", None, "safetensors already; give it as model.weights"),
        (file, tmp_path / "there.safetensors", "is there already; name another file"),
        (file, tmp_path / "x.bin", r"ends with .safetensors"),
        (file, tmp_path / "text.pt" / "x.safetensors", "cannot be written"),
    ]
    for source, output, words in cases:
        with pytest.raises(LongtakeError, match=words):
            convert(source, output)
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_a_file_that_is_cut_short_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: object, path: Path, **_: object) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(conversion, "save_file", fail)
    file = saved(tmp_path / "x.pt", state())
    with pytest.raises(OutputError, match="disk full"):
        convert(file)
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "x.pt", {"generator_ema": state(), "step": 3})
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(file), "--key", "generator_ema"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (
        f"event=convert file={file} key=generator_ema left_out=step tensors=3 gb=0.000 "
        f"output={tmp_path / 'x.safetensors'}\n"
    )
    for arguments, words in (
        ([str(file)], "is there already"),
        ([], "the checkpoint is missing: longtake convert FILE"),
        ([str(file), "--kee", "x"], "unrecognized|no option kee"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["convert", *arguments])
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert any(word in printed for word in words.split("|"))
