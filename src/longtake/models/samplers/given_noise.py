"""Injection of noise into code that draws its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override


@final
class GivenNoise(TorchFunctionMode):
    """Answers this thread's ``torch.randn`` and ``torch.randn_like`` with a given tensor.

    diffusers' schedulers draw the noise of a step by themselves. Few take it as an argument,
    and a generator says nothing about the device that it draws on, and takes no recorded noise.
    All of them end in one of these two functions, wherever in a scheduler's code that is.

    Args:
        noise: What is drawn.
    """

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.draws = 0
        """How many times it was drawn."""
        self._noise = noise

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn and func is not torch.randn_like:
            return func(*args, **kwargs)
        self.draws += 1
        return self._noise.to(dtype=kwargs.get("dtype") or self._noise.dtype)
