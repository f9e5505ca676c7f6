"""Quantized weights: which, how far from the original ones, made as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from longtake.models import Placement, WeightFormat, open_folder
from longtake.models.loading.quantize import layer_linears, quantize_linears, quantized
from longtake.models.loading.weights import load_module
from longtake.testing.tiny.base import tiny_wan_folder

pytest.importorskip("torchao", reason="torchao is not installed: make test-quantize")

FORMATS: list[WeightFormat] = ["int8", "fp8"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_weight_takes_a_byte_and_is_close(weight_format: WeightFormat) -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    packed, x = quantized(weight, weight_format), torch.randn(5, 48)
    assert packed.shape == weight.shape
    assert packed.dtype == weight.dtype
    relative = (packed.dequantize() - weight).norm() / weight.norm()
    assert 0 < relative < (0.01 if weight_format == "int8" else 0.04)
    expected = x @ packed.dequantize().T
    torch.testing.assert_close(nn.functional.linear(x, packed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("offload", [False, True])
def test_layers_are_quantized_and_nothing_else(
    folder: Path, weight_format: WeightFormat, offload: bool
) -> None:
    def load(place: Placement) -> WanTransformer3DModel:
        return load_module(
            open_folder(str(folder)), "transformer", WanTransformer3DModel.from_config, place
        )

    plain = load(Placement(CPU, torch.float32)).state_dict()
    place = Placement(CPU, torch.float32, quantize=weight_format, offload=offload)
    state, names = load(place).state_dict(), layer_linears(load(place))
    assert any(name.startswith("blocks.3.") for name in names)
    for name, tensor in state.items():
        if name in names:
            assert type(tensor.data) is not torch.Tensor
            assert tensor.dequantize().sub(plain[name]).norm() <= 0.04 * plain[name].norm()
        else:
            assert torch.equal(tensor, plain[name])


def test_an_encoder_is_quantized_whole() -> None:
    encoder = nn.Sequential(nn.Embedding(5, 16), nn.Linear(16, 32), nn.LayerNorm(32))
    x = torch.tensor([1, 4])
    before = encoder(x)
    quantize_linears(encoder, "int8")
    assert encoder(x).sub(before).norm() < 0.05 * before.norm()
    assert type(encoder[1].weight.data) is not torch.Tensor
