"""Passes over memory: what a model's operations read and write besides its products."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

_ATEN: Final = torch.ops.aten
_PRODUCTS: Final = {_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.convolution}
"""Counted by their operations."""
_BLANK: Final = {_ATEN.empty, _ATEN.new_empty, _ATEN.empty_like, _ATEN.empty_strided}
"""Make tensors and touch nothing."""
_DIRECT: Final = 20_480
"""Numbers along the first four dims of its input from which on PyTorch gives a CPU's convolution
to oneDNN; a smaller one is unfolded to a matrix."""


@final
class Passes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operations move that are no products, while it is active; also on real tensors.

    Views and tensors that nothing is written to are free. Kernels read each operand once and write
    each result once.

    Attributes:
        moved: Bytes that are read and written.
        calls: How many operations there were, products included.
        unfolded: Bytes of the matrices that a CPU unfolds small convolutions to.
        thin: Operations of all other convolutions, each over the channels that it has least of.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0
        self.calls = 0
        self.unfolded = 0
        self.thin = 0.0

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket in _BLANK:
            return result
        self.calls += 1
        if func.overloadpacket is _ATEN.convolution:
            if unfolded(args):
                self.unfolded += convolution_workspace(args, result)
            else:
                flops = 2.0 * result.numel() * args[1][0].numel()
                self.thin += flops / min(args[1].shape[:2])
        elif func.overloadpacket is _ATEN.addmm:  # a CPU writes what is added first
            self.moved += result.nbytes
        elif func.overloadpacket not in _PRODUCTS:
            self.moved += sum(one.nbytes for one in _tensors((args, kwargs, result)))
        return result


def unfolded(args: Sequence[Any]) -> bool:
    """Return whether a CPU unfolds a convolution in PyTorch: each position with its neighbors.

    Args:
        args: Of ``aten.convolution``: input, weight, bias, stride, padding, ...
    """
    given, weight, groups = args[0], args[1], args[8]
    wide = min(weight.shape[-2:]) > 3
    direct = groups > 1 or wide or len(given) > 1 or math.prod(given.shape[:4]) > _DIRECT
    return not direct


def convolution_workspace(args: Sequence[Any], result: Tensor) -> int:
    """Return the bytes that a CPU's convolution takes besides its input and its result.

    Unfolded, a matrix with a column for each position of the result. By oneDNN both tensors once
    more, in its own order.

    Args:
        args: As for ``unfolded``.
        result: Of the convolution.
    """
    if not unfolded(args):
        return int(args[0].nbytes + result.nbytes)
    positions = result.numel() // result.shape[1]
    return int(positions * args[1][0].numel() * result.element_size())


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]
