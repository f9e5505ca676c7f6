"""Weights in formats that are not read: refused by name, in every component."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.framework.engine.preflight import check_modules
from longtake.models import ModelFamily, ModelFolder, Placement, family_of, open_folder
from longtake.models.blank import BlankModel
from longtake.testing.tiny.base import tiny_wan_folder

Change = Callable[[dict[str, Tensor], str], dict[str, Tensor]]
"""From a component's tensors and the name of a weight matrix to quantized ones."""

COMPONENTS = ["text_encoder", "transformer", "transformer_2", "vae"]
OTHERS = ["text_encoder", "vae"]
"""Float8 is read in transformers (``test_float8.py``)."""


def check_weights(folder: ModelFolder, family: ModelFamily) -> None:
    check_modules(BlankModel.of(folder), weights=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("models") / "tiny", experts=2)


@pytest.fixture
def folder(whole: ModelFolder, tmp_path: Path) -> ModelFolder:
    shutil.copytree(whole.path, tmp_path / "tiny")
    return open_folder(str(tmp_path / "tiny"))


def scaled_float8(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    scale = tensors[key].abs().max() / 448
    return {
        **tensors,
        key: (tensors[key] / scale).to(torch.float8_e4m3fn),
        key.removesuffix("weight") + "scale_weight": scale,
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    }


def plain_float8(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {**tensors, key: tensors[key].to(torch.float8_e5m2)}


def scaled_as_bfloat16(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    scale = tensors[key].abs().max() / 448
    numbers = (tensors[key] / scale).bfloat16()
    return {**tensors, key: numbers, key.removesuffix("weight") + "scale_weight": scale}


def bitsandbytes_int8(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    rows = tensors[key].flatten(1).abs().amax(1)
    shaped = rows.view(-1, *[1] * (tensors[key].dim() - 1))
    numbers = (tensors[key] / shaped * 127).round().to(torch.int8)
    return {**tensors, key: numbers, key.removesuffix("weight") + "SCB": rows}


def bitsandbytes_nf4(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    numbers = torch.zeros(tensors[key].numel() // 2, 1, dtype=torch.uint8)
    return {
        **tensors,
        key: numbers,
        f"{key}.absmax": torch.ones(4),
        f"{key}.quant_map": torch.ones(16),
        f"{key}.quant_state.bitsandbytes__nf4": torch.zeros(90, dtype=torch.uint8),
    }


def torchao(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    rest = {name: tensor for name, tensor in tensors.items() if name != key}
    numbers = torch.zeros(tensors[key].shape, dtype=torch.int8)
    return {**rest, f"{key}:qdata": numbers, f"{key}:scale": torch.ones(len(tensors[key]))}


def bare_int8(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {**tensors, key: tensors[key].to(torch.int8)}


FLOAT8: list[tuple[Change, str]] = [(scaled_float8, "scaled float8"), (plain_float8, "float8")]
FORMATS: list[tuple[Change, str]] = [
    (scaled_as_bfloat16, "scaled float8"),
    (bitsandbytes_int8, "bitsandbytes int8"),
    (bitsandbytes_nf4, "bitsandbytes 4-bit"),
    (torchao, "torchao"),
    (bare_int8, "numbers of dtype I8"),
]


@pytest.mark.parametrize(
    ("component", "quantize", "name"),
    [(part, *change) for part in COMPONENTS for change in FORMATS]
    + [(part, *change) for part in OTHERS for change in FLOAT8],
)
def test_quantized_weights_are_refused_by_the_name_of_their_format(
    folder: ModelFolder, component: str, quantize: Change, name: str
) -> None:
    [file] = set(folder.weight_files(component).values())
    tensors = load_file(file)
    key = next(key for key in sorted(tensors) if key.endswith("weight") and tensors[key].dim() > 1)
    save_file({name: t.contiguous() for name, t in quantize(tensors, key).items()}, file)
    with pytest.raises(ModelError) as refused:
        check_weights(folder, family_of(folder))
    sentence = str(refused.value)
    assert sentence.startswith(f"the {component} is quantized as {name} (")
    assert str(file) in sentence
    assert "use the folder of the model whose weights are float32, bfloat16 or float16" in sentence


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes 8-bit"),
        ({"quant_method": "torchao", "quant_type": "int8wo"}, "torchao"),
        ({"quant_method": "gguf"}, "gguf"),
    ],
)
def test_a_configuration_of_quantized_weights_is_refused_by_their_name(
    folder: ModelFolder, component: str, settings: dict[str, object], name: str
) -> None:
    file = folder.path / component / "config.json"
    file.write_text(json.dumps({**folder.config(component), "quantization_config": settings}))
    asked = (
        rf"the {component} is quantized as {name} \(quantization_config in {re.escape(str(file))}"
    )
    with pytest.raises(ModelError, match=asked):
        check_weights(folder, family_of(folder))


def test_names_of_another_layout_are_refused(folder: ModelFolder) -> None:
    [file] = set(folder.weight_files("transformer").values())
    save_file({f"model.diffusion_model.{k}": t for k, t in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"names are those of another layout.*diffusers folder"):
        check_weights(folder, family_of(folder))


def test_what_diffusers_knows_to_be_superfluous_is_left_alone(folder: ModelFolder) -> None:
    [file] = set(folder.weight_files("transformer").values())
    extra = {"blocks.0.attn2.norm_added_q.weight": torch.ones(24)}
    save_file(load_file(file) | extra, file)
    check_weights(folder, family_of(folder))


def test_the_rest_of_a_whole_language_model_is_left_alone(folder: ModelFolder) -> None:
    [file] = set(folder.weight_files("text_encoder").values())
    extra = {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(8, 8)}
    save_file(load_file(file) | extra, file)
    check_weights(folder, family_of(folder))


def test_a_twin_of_a_tied_tensor_is_no_other_tensor(folder: ModelFolder) -> None:
    [file] = set(folder.weight_files("text_encoder").values())
    tensors = load_file(file)
    assert "encoder.embed_tokens.weight" not in tensors
    twin = tensors["shared.weight"].clone()
    save_file(tensors | {"encoder.embed_tokens.weight": twin}, file)
    check_weights(folder, family_of(folder))
    tensors.pop("shared.weight")
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"lacks the tensor .*(shared|embed_tokens)\.weight"):
        check_weights(folder, family_of(folder))


def test_numbers_too_large_for_float16_are_refused_where_it_is_asked_for(
    folder: ModelFolder,
) -> None:
    [file] = set(folder.weight_files("transformer").values())
    tensors = load_file(file)
    tensors["proj_out.weight"][0, 0] = 1e5
    save_file(tensors, file)
    family = family_of(folder)
    spec, layers = family.spec(folder), range(4)
    family.load_backbone(folder, spec, layers, Placement(torch.device("cpu"), torch.bfloat16))
    half = Placement(torch.device("cpu"), torch.float16)
    with pytest.raises(ModelError, match=r"proj_out\.weight .* not finite .*float16.*bfloat16"):
        family.load_backbone(folder, spec, layers, half)
