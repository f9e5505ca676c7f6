"""Model folders that would have code run or other models loaded: refused, and nothing runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.errors import ModelError
from longtake.models import open_folder
from longtake.models.loading.redirects import refuse_types
from longtake.models.loading.tokenizers import check_text, load_tokenizer
from longtake.models.registry import family_of
from longtake.testing.tiny.base import tiny_wan_folder

CODE = "import pathlib; pathlib.Path({touched!r}).touch()\nclass Hostile: pass\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """Return a copy, with a module in every folder that would leave a mark if it were imported."""
    copy = Path(shutil.copytree(whole, tmp_path / "model"))
    for folder in (copy, *(part for part in copy.iterdir() if part.is_dir())):
        code = CODE.format(touched=str(tmp_path / "touched"))
        (folder / "hostile.py").write_text(code)
    return copy


def changed(file: Path, **settings: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | settings))


AUTO_MAP = {"AutoTokenizer": ["hostile.Hostile", "hostile.Hostile"], "AutoModel": "hostile.Hostile"}


@pytest.mark.parametrize("name", ["NoSuchTokenizer", "T5Tokenizer", None])
@pytest.mark.parametrize("code", ["hostile.Hostile", "other/model--hostile.Hostile"])
def test_code_of_a_tokenizer_is_not_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, code: str
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question was asked, which nobody may be there to answer")

    monkeypatch.setattr("builtins.input", asked)
    settings = {"auto_map": {"AutoTokenizer": [code, code]}, "tokenizer_class": name}
    changed(path / "tokenizer" / "tokenizer_config.json", **settings)
    changed(path / "tokenizer" / "config.json", model_type="hostile", auto_map=AUTO_MAP)
    try:
        load_tokenizer(open_folder(str(path)), "tokenizer")
    except ModelError as error:
        assert "cannot be loaded" in str(error)  # noqa: PT017
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_code_of_a_component_is_not_run(path: Path, tmp_path: Path, part: str) -> None:
    changed(path / part / "config.json", auto_map=AUTO_MAP)
    check_text(open_folder(str(path)))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_an_adapter_that_names_another_model_is_not_followed(path: Path, part: str) -> None:
    changed(path / part / "adapter_config.json", base_model_name_or_path="other/model")
    with pytest.raises(ModelError, match=r"adapter_config\.json names another model"):
        open_folder(str(path))


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "owner/kernel"},
        {"_attn_implementation": "owner/kernel@main:function"},
        {"text_config": {"attn_implementation": {"": "owner/kernel"}}},
        {"experts_implementation": "owner/kernel"},
    ],
)
def test_kernels_that_a_configuration_names_are_not_fetched(
    path: Path, settings: dict[str, Any]
) -> None:
    changed(path / "text_encoder" / "config.json", **settings)
    with pytest.raises(ModelError, match="code from the hub"):
        open_folder(str(path))


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/passwd", "a/b", "", "..", 7, None, []]
)
def test_shards_are_files_of_the_component(path: Path, shard: object) -> None:
    index = path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    changed(index, weight_map={"proj_out.weight": shard})
    with pytest.raises(ModelError, match="shards are files in its folder"):
        open_folder(str(path)).weight_files("transformer")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "null", "[]", "7", '"x"', "", "{", "\x00", "NaN", "{]"],
)
@pytest.mark.parametrize(
    "name", ["model_index.json", "transformer/config.json", "text_encoder/config.json"]
)
def test_settings_that_are_none_are_refused(path: Path, name: str, text: str) -> None:
    (path / name).write_text(text)
    read: Callable[[], object] = lambda: open_folder(str(path)).config("transformer")  # noqa: E731
    with pytest.raises(ModelError, match="JSON"):
        read()


@pytest.mark.parametrize("value", [2.5, 2.0, float("inf")])
def test_a_fraction_in_place_of_a_whole_number_is_refused_before_a_video_is_made(
    path: Path, value: float
) -> None:
    changed(path / "vae" / "config.json", patch_size=value)
    folder = open_folder(str(path))
    with pytest.raises(ModelError, match=r"sets patch_size to .* takes whole numbers there"):
        family_of(folder).load_decoder(folder, torch.device("meta"))


class Model:
    """Takes settings of some types."""

    def __init__(
        self,
        sizes: tuple[int, ...] = (1,),
        nested: list[tuple[int, int]] | None = None,
        scale: float | None = None,
        either: int | float = 1,
        anything: Any = None,
    ) -> None:
        """Use none of them."""


@pytest.mark.parametrize(
    ("setting", "value", "refused"),
    [
        ("sizes", [1, 2.5], True),
        ("sizes", [1, 2], False),
        ("nested", [[1, 2], [3, 4.0]], True),
        ("nested", [[1, 2]], False),
        ("scale", 1.5, False),
        ("either", 1.5, False),
        ("anything", [1.5], False),
        ("another", 1.5, False),
    ],
)
def test_fractions_are_refused_where_all_that_is_taken_are_whole_numbers(
    setting: str, value: object, refused: bool
) -> None:
    with pytest.raises(ModelError, match="whole numbers") if refused else nullcontext():
        refuse_types(Path("config.json"), Model, {setting: value})


@pytest.mark.parametrize("value", [[None, None], [2, 2], {"a": 1}])
def test_a_structure_in_place_of_a_number_is_refused_before_a_video_is_made(
    path: Path, value: object
) -> None:
    """This one is used for the first time when the first block is decoded."""
    changed(path / "vae" / "config.json", patch_size=value)
    folder = open_folder(str(path))
    with pytest.raises(ModelError, match=r"sets patch_size to .* takes a single value there"):
        family_of(folder).load_decoder(folder, torch.device("meta"))
