"""State of a diffusers scheduler, as named tensors and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from longtake.models.samplers.base import SamplerState

_STEPS_DONE: Final = "steps_done"
_LENGTH: Final = ".length"


def read_state(scheduler: Any, fresh: Any, steps_done: int) -> SamplerState:
    """Return what steps have changed about a scheduler.

    Args:
        scheduler: One block's.
        fresh: The same one before its first step.
        steps_done: How many steps it has behind it.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float | str | None] = {_STEPS_DONE: steps_done}
    for name, value in _changed(scheduler, fresh):
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, list):
            numbers[name + _LENGTH] = len(value)
            for index, item in enumerate(value):
                if item is not None:
                    tensors[f"{name}.{index}"] = torch.as_tensor(item)
        else:
            numbers[name] = value
    return SamplerState(tensors=tensors, numbers=numbers)


def write_state(scheduler: Any, state: SamplerState) -> int:
    """Put a state into a scheduler, and return how many steps it has behind it.

    Args:
        scheduler: One block's, before its first step; changed.
        state: From ``read_state``.
    """
    for name, number in state.numbers.items():
        if name.endswith(_LENGTH):
            base = name.removesuffix(_LENGTH)
            items = [state.tensors.get(f"{base}.{index}") for index in range(int(number or 0))]
            setattr(scheduler, base, items)
        elif name != _STEPS_DONE:
            setattr(scheduler, name, number)
    for name, tensor in state.tensors.items():
        if "." not in name:
            setattr(scheduler, name, tensor)
    return int(state.numbers[_STEPS_DONE] or 0)


def _changed(scheduler: Any, fresh: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that steps have changed; those that begin as tensors are settings."""
    before = vars(fresh)
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor | list):
            if not isinstance(before.get(name), Tensor):
                yield name, value
        elif isinstance(value, int | float | str) and value != before.get(name):
            yield name, value
