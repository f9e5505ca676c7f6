"""Shapes of a LoRA's tensors, checked against the module that they change."""

from __future__ import annotations

import math
from collections.abc import Mapping

from longtake.errors import ModelError
from longtake.models.loading.lora.file import LoraFile, Module
from longtake.models.loading.lora.keys import Part
from longtake.models.loading.lora.names import Shape, Target

_NEED_BOTH = (Part.UP_BIAS, Part.ALPHA, Part.MAGNITUDE)
"""Parts that mean nothing without a product of two matrices."""


def weight_of(part: str, known: Mapping[str, Shape]) -> str:
    """Return the name of a module's weight; a bare parameter is its own."""
    return part if part in known else f"{part}.weight"


def whole(module: Module) -> Target:
    """Return what a module is in the model, where that has been settled."""
    if module.target is None:
        raise ValueError(f"{module.name} has no place in the model")
    return module.target


def check_fit(file: LoraFile, module: Module, component: str, known: Mapping[str, Shape]) -> None:
    """Refuse parts that are not whole, or do not fit the module.

    Args:
        file: That they are of.
        module: With a target that ``known`` has.
        component: That it is of.
        known: Shape of every tensor of the component.

    Raises:
        ModelError: Names the tensor and both shapes.
    """
    _check_parts(file, module)
    parts, wanted = whole(module).parts, _shapes(file, module, known)
    for part, key in module.keys.items():
        shape = file.shapes[key]
        if not _fits(part, shape, wanted[part]):
            raise ModelError(
                f"the tensor {key} in {file.path} has shape {shape}, but "
                f"{' and '.join(parts)} of the {component} asks for {wanted[part]}."
            )


def _check_parts(file: LoraFile, module: Module) -> None:
    keys, first = module.keys, next(iter(module.keys.values()))
    if (Part.DOWN in keys) != (Part.UP in keys):
        raise ModelError(f"the LoRA {file.path} has {first}, but not both lora_A and lora_B.")
    alone = [keys[part] for part in _NEED_BOTH if part in keys and Part.UP not in keys]
    if alone:
        raise ModelError(
            f"the LoRA {file.path} has {alone[0]}, which changes nothing without lora_A and lora_B."
        )
    if Part.MAGNITUDE in keys and Part.UP_BIAS in keys:
        raise ModelError(
            f"the LoRA {file.path} has {keys[Part.MAGNITUDE]} and {keys[Part.UP_BIAS]}: DoRA with "
            f"a bias is not defined."
        )


def _shapes(file: LoraFile, module: Module, known: Mapping[str, Shape]) -> dict[Part, Shape]:
    """Return the shapes that the parts of a module should have."""
    weights = [known[weight_of(part, known)] for part in whole(module).parts]
    out, inputs = sum(weight[0] for weight in weights), weights[0][1:]
    down = file.shapes[module.keys[Part.DOWN]] if Part.DOWN in module.keys else (1,)
    rank = max(1, down[0]) if down else 1
    return {
        Part.DOWN: (rank, *inputs),
        Part.UP: (out, rank, *(1,) * (len(inputs) - 1)),
        Part.UP_BIAS: (out,),
        Part.ALPHA: (),
        Part.MAGNITUDE: (out,),
        Part.DIFF: (out, *inputs),
        Part.BIAS_DIFF: (out,),
        Part.TABLE_DIFF: (out, *inputs),
    }


def _fits(part: Part, shape: Shape, wanted: Shape) -> bool:
    """Return whether a tensor has a shape, or is the same rows written in another way."""
    if part is Part.ALPHA:
        return math.prod(shape) == 1
    if part in (Part.DOWN, Part.UP) and len(wanted) < 2:
        return False
    # Magnitudes of a kernel are (1, out, 1, ...) in peft; tables may have a batch dim of 1.
    loose = part in (Part.MAGNITUDE, Part.DIFF, Part.TABLE_DIFF)
    if loose and _without_ones(shape) == _without_ones(wanted):
        return True
    flat = (wanted[0], math.prod(wanted[1:])) if len(wanted) > 1 else wanted
    return shape in (wanted, flat) or _without_last_ones(shape) == flat


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _without_last_ones(shape: Shape) -> Shape:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
