"""Float8 weights of a transformer: times their scales, in any of the forms that are published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.framework.engine.preflight import check_modules
from longtake.models import ModelFolder, Placement, open_folder
from longtake.models.blank import BlankModel
from longtake.models.loading.weights import load_module
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder

SHARED = "single_blocks.0.linear1.weight"
"""Queries, keys, values and the first matrix of the MLP: diffusers has a tensor for each."""
SWAPPED = "final_layer.adaLN_modulation.1.weight"
PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")

Form = Callable[[str, Tensor, Tensor], dict[str, Tensor]]
"""From the name of a module, float8 numbers and scales of rows to what a file holds."""


def of_one_number(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers, f"{name}.scale_weight": scales[0].clone()}


def with_inputs_scale(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    beside = {f"{name}.scale_input": torch.ones(1)}
    return of_one_number(name, numbers, scales) | beside


def with_settings(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    text = json.dumps({"format": "float8_e4m3fn"}).encode()
    return {
        f"{name}.weight": numbers,
        f"{name}.weight_scale": scales[0].clone(),
        f"{name}.input_scale": torch.ones(1),
        f"{name}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8),
    }


def of_rows(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers, f"{name}.weight_scale": scales[:, None]}


def without(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers}


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan_folder(tmp_path_factory.mktemp("tiny") / "tiny")


def file_of(folder: ModelFolder, path: Path, change: Mapping[str, Tensor]) -> ModelFolder:
    """Return the folder with a file in original names of two tensors, in diffusers' of the rest."""
    [own] = (folder.path / "transformer").glob("*.safetensors")
    tensors = load_file(own)
    for part in PARTS:
        del tensors[f"single_transformer_blocks.0.{part}.weight"]
    del tensors["norm_out.linear.weight"]
    save_file({**tensors, **change}, path / "x.safetensors")
    return open_folder(str(folder.path), weights=str(path / "x.safetensors"))


def loaded(folder: ModelFolder, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    build, place = HunyuanVideoTransformer3DModel.from_config, Placement(torch.device("cpu"), dtype)
    return dict(load_module(folder, "transformer", build, place).state_dict())


def sizes(folder: ModelFolder) -> tuple[list[int], int]:
    [own] = (folder.path / "transformer").glob("*.safetensors")
    state = load_file(own)
    rows = [len(state[f"single_transformer_blocks.0.{part}.weight"]) for part in PARTS]
    return rows, state["norm_out.linear.weight"].shape[1]


@pytest.mark.parametrize("numbers_are", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    "form", [of_one_number, with_inputs_scale, with_settings, of_rows, without]
)
def test_numbers_are_multiplied_by_their_scale(
    hunyuan: ModelFolder, tmp_path: Path, form: Form, numbers_are: torch.dtype
) -> None:
    """Rows that are cut apart, or are in another order, take their own scales with them."""
    generator = torch.Generator().manual_seed(3)
    rows, width = sizes(hunyuan)
    stored: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    wanted = {}
    for key, count in ((SHARED, sum(rows)), (SWAPPED, 2 * width)):
        numbers = torch.randn(count, width, generator=generator).to(numbers_are)
        scales = torch.rand(count, generator=generator) + 0.5
        stored |= form(key.removesuffix(".weight"), numbers, scales)
        if form is without:
            scales = torch.ones(count)
        elif form is not of_rows:
            scales = scales[:1].expand(count)
        wanted[key] = numbers.float() * scales[:, None]
    folder = file_of(hunyuan, tmp_path, stored)
    check_modules(
        BlankModel.of(folder),
        weights=True,
    )
    found = loaded(folder)
    pieces = torch.split(wanted[SHARED], rows)
    for part, piece in zip(PARTS, pieces, strict=True):
        assert torch.equal(found[f"single_transformer_blocks.0.{part}.weight"], piece)
    shift, scale = wanted[SWAPPED].chunk(2)
    assert torch.equal(found["norm_out.linear.weight"], torch.cat([scale, shift]))
    half = loaded(folder, torch.bfloat16)  # rounded once, from the product
    key = "single_transformer_blocks.0.proj_mlp.weight"
    assert torch.equal(half[key], pieces[3].bfloat16())


def test_plain_float8_is_read_under_diffusers_names(hunyuan: ModelFolder, tmp_path: Path) -> None:
    [own] = (hunyuan.path / "transformer").glob("*.safetensors")
    state = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(own).items()}
    save_file(state, tmp_path / "x.safetensors")
    folder = open_folder(str(hunyuan.path), weights=str(tmp_path / "x.safetensors"))
    found = loaded(folder)
    assert all(torch.equal(found[key], tensor.float()) for key, tensor in state.items())


def blocks(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers, f"{name}.weight_scale": torch.ones(len(numbers), 2)}


def inverse(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers, f"{name}.weight_scale_inv": torch.ones(1)}


def whole_numbers(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return of_one_number(name, numbers.float().to(torch.int8), scales)


def wide(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    return of_one_number(name, numbers.bfloat16(), scales)


def turned(name: str, numbers: Tensor, scales: Tensor) -> dict[str, Tensor]:
    text = json.dumps({"format": "float8_e4m3fn", "convrot": True}).encode()
    settings = {f"{name}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}
    return of_one_number(name, numbers, scales) | settings


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (blocks, "quantized as scaled"),
        (inverse, "quantized as scaled"),
        (whole_numbers, "quantized as scaled float8"),
        (wide, "quantized as scaled float8"),
        (turned, "quantized as scaled in a way of its own"),
    ],
)
def test_scales_of_any_other_kind_are_refused(
    hunyuan: ModelFolder, tmp_path: Path, form: Form, words: str
) -> None:
    rows, width = sizes(hunyuan)
    stored = {SWAPPED: torch.ones(2 * width, width)}
    numbers = torch.ones(sum(rows), width).to(torch.float8_e4m3fn)
    stored |= form(SHARED.removesuffix(".weight"), numbers, torch.ones(sum(rows)))
    with pytest.raises(ModelError, match=words):
        loaded(file_of(hunyuan, tmp_path, stored))


def test_numbers_that_are_not_finite_are_refused(hunyuan: ModelFolder, tmp_path: Path) -> None:
    rows, width = sizes(hunyuan)
    stored: dict[str, Any] = {SWAPPED: torch.ones(2 * width, width)}
    stored[SHARED] = torch.ones(sum(rows), width).to(torch.float8_e4m3fn)
    stored[SHARED.replace("weight", "scale_weight")] = torch.tensor(float("inf"))
    with pytest.raises(ModelError, match=r"attn\.to_q\.weight .* not finite"):
        loaded(file_of(hunyuan, tmp_path, stored))
