"""Tensors that have a shape, no values, and remember what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor


class _Traced(Tensor):
    """A tensor on the meta device that knows the keys of the tensors that it is made of."""

    keys: frozenset[str]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = super().__torch_function__(  # type: ignore[no-untyped-call]
            func, types, args, kwargs or {}
        )
        keys = frozenset(key for tensor in _traced(args) for key in tensor.keys)
        for tensor in _traced(result):
            tensor.keys = keys
        return result


def blank(key: str, shape: Sequence[int]) -> Tensor:
    """Return a tensor without values that stands for the one called ``key``."""
    tensor = torch.empty(tuple(shape), device="meta").as_subclass(_Traced)
    tensor.keys = frozenset((key,))
    return tensor


def sources(tensor: Tensor) -> frozenset[str]:
    """Return the keys of the tensors that this one is made of; none for an ordinary tensor."""
    return tensor.keys if isinstance(tensor, _Traced) else frozenset()


def _traced(value: Any) -> Iterator[_Traced]:
    """Return the traced tensors in a value, lists and tuples searched."""
    if isinstance(value, _Traced):
        yield value
    elif isinstance(value, list | tuple):
        for part in cast(Sequence[Any], value):
            yield from _traced(part)
