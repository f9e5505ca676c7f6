"""Peak memory of code that runs on the meta device: what its tensors would take."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from longtake.models.passes import convolution_workspace

_CONVOLUTION: Final = torch.ops.aten.convolution.default


@final
class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made while it is active, as long as they live.

    What was there before, such as weights, is not counted, nor is what kernels need inside; but
    for a CPU's convolutions, of which it is known.

    Attributes:
        live: Bytes now.
        peak: The most bytes at once since ``begin``.
        cpu_peak: The same, with what a CPU's convolutions need inside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.cpu_peak = 0
        self._known: set[int] = set()

    def begin(self) -> None:
        """Count the peak from what lives now on."""
        self.peak = self.cpu_peak = self.live

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {one.untyped_storage()._cdata for one in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in before and key not in self._known:  # no view of what was there
                self._known.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        inside = 0
        if func is _CONVOLUTION:
            inside = convolution_workspace(args, result)
        self.cpu_peak = max(self.cpu_peak, self.live + inside)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@final
class FusedAttention(TorchFunctionMode):
    """Has attention made no matrix of all queries and keys, as fused kernels make none.

    Attributes:
        flops: Operations of what was attended, which a counter does not see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
            query, value = given["query"], given["value"]
            self.flops += 2.0 * query.numel() * value.shape[-2]
            self.flops += 2.0 * math.prod(query.shape[:-1]) * math.prod(value.shape[-2:])
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]
