"""Float8 weights: each with the scale that its numbers are multiplied by, where it has one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from safetensors import safe_open

from longtake.models.loading.stored import FLOAT8, FLOATS, TensorHeader

_SCALES: Final = (".scale_weight", ".weight_scale")
_WEIGHT: Final = ".weight"
_BESIDE: Final = (".scale_input", ".input_scale")
"""How the layer's input would be scaled for a product of float8; no matter for the weight."""
_MARK: Final = "scaled_fp8"
_SETTINGS: Final = ".comfy_quant"
"""A layer's format in words, as JSON."""
_READ: Final = ("float8_e4m3fn", "float8_e5m2")
_HARMLESS: Final = {"format", "full_precision_matrix_mult"}
"""Settings that do not change what the stored numbers mean."""


def with_scales(headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Return what a file holds, with scales as part of the float8 weights that they belong to.

    A weight is its numbers, times one scale, or one per row of the weight; without a scale it is
    its numbers. What stands beside scales and does not change the weights is left out. What is
    scaled in any other way stays as it is, and is refused where formats are.

    Args:
        headers: By the file's own names.
    """
    scaled = {
        weight: key
        for key in headers
        if (weight := _weight_of(key, _SCALES)) and _fits(headers.get(weight), headers[key])
    }
    found = {key: header for key, header in headers.items() if key not in scaled.values()}
    for weight, key in scaled.items():
        found[weight] = replace(found[weight], scale=headers[key].key)
    for key in list(found):
        beside = found.get(_weight_of(key, (*_BESIDE, _SETTINGS)))
        is_read = beside is not None and beside.dtype in FLOAT8
        if key.endswith(_SETTINGS):
            is_read = is_read and _is_plain(headers[key])
        if key.rpartition(".")[2] == _MARK or is_read:
            del found[key]
    return found


def _weight_of(key: str, endings: tuple[str, ...]) -> str:
    """Return the weight that a key with one of some endings stands beside; "" for another key."""
    ending = next((ending for ending in endings if key.endswith(ending)), None)
    return "" if ending is None else key.removesuffix(ending) + _WEIGHT


def _fits(weight: TensorHeader | None, scale: TensorHeader) -> bool:
    """Return whether a scale is one number, or one per row, for float8 numbers beside it."""
    if weight is None or weight.dtype not in FLOAT8 or weight.file != scale.file:
        return False
    per_row = (weight.shape[0], *(1,) * (len(scale.shape) - 1)) if weight.shape else ()
    one = math.prod(scale.shape) == 1
    return scale.dtype in FLOATS and (one or scale.shape == per_row)


def _is_plain(settings: TensorHeader) -> bool:
    """Return whether a layer's settings are those of numbers times a scale, and no more."""
    with safe_open(settings.file, framework="pt") as reader:
        text = bytes(reader.get_tensor(settings.key).flatten().tolist())
    try:
        said: Any = json.loads(text)
    except ValueError:
        return False
    plain = isinstance(said, dict) and said.get("format") in _READ
    return plain and said.keys() <= _HARMLESS
