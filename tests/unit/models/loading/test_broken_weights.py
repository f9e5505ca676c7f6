"""Folders whose weights are not what the configuration asks for, of every family."""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.framework.engine.preflight import check_modules
from longtake.models import ModelFamily, ModelFolder, Placement, family_of, open_folder
from longtake.models.blank import BlankModel
from longtake.models.loading.encoders import check_encoder
from longtake.models.loading.headers import check_module, read_headers
from longtake.models.loading.stored import TensorHeader
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.cogvideox import tiny_cogvideox_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder
from longtake.testing.tiny.ltx import tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_folder
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_folder

Make = Callable[..., ModelFolder]

PLACE = Placement(torch.device("cpu"), torch.float32)
FAMILIES = [
    tiny_wan_folder,
    tiny_ti2v_folder,
    tiny_wan_i2v_folder,
    tiny_hunyuan_folder,
    tiny_hunyuan15_folder,
    tiny_cogvideox_folder,
    tiny_mochi_folder,
    tiny_ltx_folder,
    tiny_open_sora_plan_folder,
    tiny_skyreels_folder,
]


def check_weights(folder: ModelFolder, family: ModelFamily) -> None:
    check_modules(BlankModel.of(folder), weights=True)


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Return a folder as it should be, in shards where they can be made."""
    make: Make = request.param
    shards = {"shard_size": "20KB"} if "shard_size" in inspect.signature(make).parameters else {}
    return make(tmp_path_factory.mktemp("models") / "tiny", **shards)


@pytest.fixture
def folder(whole: ModelFolder, tmp_path: Path) -> ModelFolder:
    """Return a copy that may be broken."""
    shutil.copytree(whole.path, tmp_path / "tiny")
    return open_folder(str(tmp_path / "tiny"))


def load(folder: ModelFolder, component: str) -> None:
    family = family_of(folder)
    if component == "vae":
        family.load_decoder(folder, PLACE.device)
    else:
        family.load_backbone(folder, family.spec(folder), {1}, PLACE)


def some_tensor(folder: ModelFolder, component: str) -> tuple[Path, str, Tensor]:
    """Return a weight that every rank with layer 1, or every decoder, needs; and its file."""
    layer = r"decoder\..*" if component == "vae" else r"(transformer_)?blocks\.1\..*"
    for file in sorted(set(folder.weight_files(component).values())):
        for key, tensor in load_file(file).items():
            if re.fullmatch(layer + r"weight", key) and tensor.dim() > 1:
                return file, key, tensor
    raise AssertionError("no such tensor")


def change(file: Path, key: str, tensor: Tensor | None) -> None:
    tensors = load_file(file)
    tensors.pop(key)
    save_file(tensors if tensor is None else tensors | {key: tensor}, file)


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_a_missing_tensor_is_named_with_its_file(folder: ModelFolder, component: str) -> None:
    file, key, _ = some_tensor(folder, component)
    load(folder, component)
    change(file, key, None)
    with pytest.raises(ModelError) as refused:
        load(folder, component)
    sentence = str(refused.value)
    assert sentence.startswith(f"{file} lacks the tensor {key} ")
    assert sentence.endswith(f" of the {component}.")


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_a_tensor_of_another_shape_is_named_with_both(folder: ModelFolder, component: str) -> None:
    file, key, tensor = some_tensor(folder, component)
    change(file, key, torch.zeros(3, 5))
    with pytest.raises(ModelError) as refused:
        load(folder, component)
    sentence = str(refused.value)
    for part in (key, str(file), "(3, 5)", str(tuple(tensor.shape)), component):
        assert part in sentence


def test_a_tensor_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    folder = tiny_wan_folder(tmp_path / "tiny", shard_size="20KB")
    _, key, _ = some_tensor(folder, "transformer")
    [index] = (folder.path / "transformer").glob("*.index.json")
    content = json.loads(index.read_text())
    del content["weight_map"][key]
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"index in .*transformer lacks the tensor {key} \("):
        load(folder, "transformer")


def test_every_component_with_weights_is_checked_first(folder: ModelFolder) -> None:
    family = family_of(folder)
    check_weights(folder, family)
    # Open-Sora-Plan's tokenizer stands in the folder of its text encoder.
    weighted = [
        name
        for name in folder.components
        if any((folder.path / name).glob("*.safetensors")) and name != "tokenizer"
    ]
    assert {"text_encoder", "transformer", "vae"} <= set(weighted)
    for component in weighted:
        file = sorted(set(folder.weight_files(component).values()))[0]
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        with pytest.raises(ModelError, match=re.escape(f"{file} is no whole safetensors file")):
            check_weights(folder, family)
        file.write_bytes(whole)
    for tokenizer in [name for name in folder.components if name.startswith("tokenizer")]:
        (folder.path / tokenizer).rename(folder.path / "elsewhere")
        with pytest.raises(ModelError, match=f"has no {tokenizer} folder"):
            check_weights(folder, family)
        (folder.path / "elsewhere").rename(folder.path / tokenizer)


def weighted(folder: ModelFolder) -> dict[str, dict[str, TensorHeader]]:
    return {component: read_headers(folder, component) for component in folder.weighted}


def check(folder: ModelFolder, component: str) -> None:
    """Check a component's headers, as preflight does with all of them."""
    family, meta = family_of(folder), torch.device("meta")
    if component.startswith("transformer"):
        spec = family.spec(folder)
        family.load_backbone(folder, spec, range(spec.layers), Placement(meta, torch.float32))
    elif component == "vae":
        family.load_decoder(folder, meta)
    else:
        check_encoder(folder, component)


def refusal(
    folder: ModelFolder, component: str, file: Path, key: str, tensor: Tensor | None
) -> str:
    """Return how a folder is refused with a tensor changed, and undo the change."""
    whole = file.read_bytes()
    change(file, key, tensor)
    try:
        with pytest.raises(ModelError) as refused:
            check(folder, component)
    finally:
        file.write_bytes(whole)
    return str(refused.value)


def some_of(headers: Iterable[str]) -> list[str]:
    """Return the first name of a component, one amid the others, and the last."""
    names = sorted(headers)
    return [names[0], names[len(names) // 3], names[-1]]


def test_preflight_misses_a_tensor_in_any_component(folder: ModelFolder) -> None:
    for component, headers in weighted(folder).items():
        key = some_of(headers)[1]
        file = headers[key].file
        whole = file.read_bytes()
        change(file, key, None)
        with pytest.raises(ModelError, match=rf"lacks the tensor .*{re.escape(key)}.*{component}"):
            check_weights(folder, family_of(folder))
        file.write_bytes(whole)


def test_every_single_tensor_of_a_module_is_missed(whole: ModelFolder) -> None:
    for component, headers in weighted(whole).items():
        if not component.startswith(("transformer", "vae")):
            continue
        check(whole, component)
        blanks = {key: header.blank() for key, header in headers.items()}
        check_module(component, headers, blanks)
        for key in headers:
            rest = {name: other for name, other in headers.items() if name != key}
            with pytest.raises(ModelError, match=rf"lacks the tensor {re.escape(key)} "):
                check_module(component, rest, blanks)


def test_any_tensor_that_is_removed_is_missed_before_any_is_read(folder: ModelFolder) -> None:
    for component, headers in weighted(folder).items():
        for key in some_of(headers):
            sentence = refusal(folder, component, headers[key].file, key, None)
            assert sentence.startswith(f"{headers[key].file} lacks the tensor ")
            assert f" {key}" in sentence
            assert sentence.endswith(f" of the {component}.")


def test_any_tensor_of_another_shape_is_refused_before_any_is_read(folder: ModelFolder) -> None:
    for component, headers in weighted(folder).items():
        for key in some_of(headers):
            sentence = refusal(folder, component, headers[key].file, key, torch.zeros(3, 5, 7))
            for part in (key, str(headers[key].file), "(3, 5, 7)", str(headers[key].shape)):
                assert part in sentence
            assert component in sentence


def test_a_tensor_that_no_module_knows_is_refused_before_any_is_read(folder: ModelFolder) -> None:
    for component, headers in weighted(folder).items():
        key = some_of(headers)[1]
        header = headers[key]
        extra = f"{key.rpartition('.')[0]}.gate_of_another_model"
        unknown = load_file(header.file) | {extra: torch.zeros(3, 2)}
        whole, indices = header.file.read_bytes(), list_extra(folder, component, header, extra)
        save_file(unknown, header.file)
        with pytest.raises(ModelError) as refused:
            check(folder, component)
        for part in (extra, str(header.file), "(3, 2)", component):
            assert part in str(refused.value)
        header.file.write_bytes(whole)
        for index, content in indices.items():
            index.write_text(content)


def list_extra(
    folder: ModelFolder, component: str, header: TensorHeader, key: str
) -> dict[Path, str]:
    """Add a tensor to a component's index, and return what was there before."""
    before = {file: file.read_text() for file in (folder.path / component).glob("*.index.json")}
    for file, text in before.items():
        content = json.loads(text)
        content["weight_map"][key] = header.file.name
        file.write_text(json.dumps(content))
    return before


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_where_they_are_read(
    folder: ModelFolder, number: float
) -> None:
    for component in ("transformer", "vae"):
        file, key, tensor = some_tensor(folder, component)
        whole = file.read_bytes()
        tensor.view(-1)[-1] = number
        change(file, key, tensor)
        with pytest.raises(ModelError, match="not finite") as refused:
            load(folder, component)
        for part in (key, str(file), str(tuple(tensor.shape)), component):
            assert part in str(refused.value)
        file.write_bytes(whole)


def test_an_encoder_with_a_number_that_is_not_finite_is_refused(folder: ModelFolder) -> None:
    family = family_of(folder)
    for component, headers in weighted(folder).items():
        if not component.startswith("text_encoder"):
            continue
        key = max(headers, key=lambda key: math.prod(headers[key].shape))
        file = headers[key].file
        whole, tensor = file.read_bytes(), load_file(file)[key]
        tensor.view(-1)[0] = math.nan
        change(file, key, tensor)
        with pytest.raises(ModelError, match=rf"of the {component} in .* not finite") as refused:
            family.encode_text(folder, ["a red shape"], PLACE)
        assert str(tuple(tensor.shape)) in str(refused.value)
        assert str(file) in str(refused.value)
        file.write_bytes(whole)


def test_an_unknown_family_is_told_the_nearest_and_the_guide(folder: ModelFolder) -> None:
    index = folder.path / "model_index.json"
    index.write_text(json.dumps({**folder.index, "_class_name": f"My{folder.pipeline}"}))
    with pytest.raises(ModelError) as refused:
        family_of(open_folder(str(folder.path)))
    sentence = str(refused.value)
    assert f"a My{folder.pipeline}, which is not registered" in sentence
    assert f"nearest registered pipeline is {folder.pipeline} (" in sentence
    assert "docs/new-backbone.md" in sentence
