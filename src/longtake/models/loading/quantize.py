"""Quantization of linear layers: weights of one byte per number, made as they are read."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from torch import Tensor, nn

from longtake.errors import ConfigurationError
from longtake.models.base import WeightFormat

_CONFIGS: Final = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def layers_of(transformer: nn.Module) -> dict[str, nn.Module]:
    """Return a transformer's layers by name: those that have weights here, in order."""
    return {
        f"{name}.{place}": layer
        for name, part in transformer.named_children()
        if isinstance(part, nn.ModuleList) and _alike(part)
        for place, layer in part.named_children()
        if next(layer.parameters(), None) is not None
    }


def _alike(layers: nn.ModuleList) -> bool:
    """Whether a list is one of layers: of one class, but for those that are not here."""
    return len({type(one) for one in layers if next(one.parameters(), None) is not None}) == 1


def layer_linears(transformer: nn.Module, fp32: Collection[str] = ()) -> set[str]:
    """Return the names of the weights of the linear layers inside a transformer's layers.

    Nearly all weights are there. What stands before and after the layers stays as it is: it is
    little, and every token passes through it.

    Args:
        transformer: The module.
        fp32: Parts of names that stay in fp32.
    """
    return {
        f"{layer}.{name}.weight"
        for layer, module in layers_of(transformer).items()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and not set(fp32).intersection(name.split("."))
    }


def quantized(weight: Tensor, weight_format: WeightFormat) -> Tensor:
    """Return a linear layer's weight ``(out, in)`` in one byte per number (torchao's tensor).

    Only the weights are: products are computed in the dtype of the hidden states.

    Raises:
        ConfigurationError: torchao is not installed.
    """
    holder = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    holder.weight = nn.Parameter(weight, requires_grad=False)
    quantization = _torchao()
    quantization.quantize_(holder, getattr(quantization, _CONFIGS[weight_format])())
    return holder.weight.detach()


def quantize_linears(module: nn.Module, weight_format: WeightFormat) -> None:
    """Quantize all linear layers of a module that has been read, one after another.

    Raises:
        ConfigurationError: torchao is not installed.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            made = quantized(part.weight.detach(), weight_format)
            part.weight = nn.Parameter(made, requires_grad=False)


def check_quantizes() -> None:
    """Refuse to quantize where the library for it is missing.

    Raises:
        ConfigurationError: torchao is not installed.
    """
    if find_spec("torchao") is None:
        raise ConfigurationError(
            "model.quantize needs the package torchao, which is not installed: "
            "pip install 'longtake[quantize]'."
        )


def _torchao() -> Any:
    check_quantizes()
    return import_module("torchao.quantization")
