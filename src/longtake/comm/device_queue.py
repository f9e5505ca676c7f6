"""Device queue: marks in what a device still has to compute, and copies beside it.

Nothing here, nor anywhere else in longtake, waits for a *device*: on CUDA such a wait includes
every transfer that has begun, also one whose other side has not. What is waited for are marks, and
the stream that computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor

Reached: TypeAlias = Callable[[], bool]
"""Says whether what was queued before a mark is done; never waits."""
_POLL: Final = (5e-5, 5e-4)
"""Seconds between the first two looks at a mark, and at most: far below any task, far above the
look itself, which takes the interpreter from the thread that computes."""


def mark(device: torch.device) -> Reached:
    """Put a mark behind what this thread has queued for computing on a device."""
    module: Any = torch.get_device_module(device)
    event = module.Event()
    event.record(module.current_stream(device))
    return event.query  # type: ignore[no-any-return]


def settle(device: torch.device) -> None:
    """Wait until what this thread has queued for computing is done; for no transfer."""
    wait_for(mark(device))


def wait_for(reached: Reached) -> None:
    """Wait until a mark is reached, without holding up other threads."""
    pause, longest = _POLL
    while not reached():
        time.sleep(pause)
        pause = min(1.2 * pause, longest)


@final
class HostCopies:
    """Copies between a device and pinned host memory, on a stream beside the one that computes.

    On a CPU a copy is a copy.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._module: Any = torch.get_device_module(device)
        self._device = device
        self._stream = None if device.type == "cpu" else self._module.Stream(device)

    def buffer(self, like: Tensor) -> Tensor:
        """Return host memory of a tensor's shape and dtype."""
        pinned = self._stream is not None
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)

    def begin(self, source: Tensor, target: Tensor, after: Reached | None = None) -> Reached:
        """Begin to copy, behind what is queued for computing now; returns at once.

        Args:
            source: On the device, or host memory from ``buffer``.
            target: The other way round.
            after: A mark that is waited for instead: the caller is another thread than computes.
        """
        if self._stream is None:
            target.copy_(source)
            return lambda: True
        if after is not None:
            wait_for(after)
        else:
            self._stream.wait_stream(self._module.current_stream(self._device))
        with self._module.device(self._device), self._module.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return mark(self._device)

    def bring(self, source: Tensor) -> Callable[[], Tensor]:
        """Begin to copy a tensor to host memory of its own; on a CPU it is there already.

        Args:
            source: On the device, made by what is queued for computing now; held until it is
                copied.

        Returns:
            Waits until it is copied, and returns the copy.
        """
        if self._stream is None:
            return lambda: source
        target = self.buffer(source)
        return partial(_copied, source, target, self.begin(source, target))


def _copied(source: Tensor, target: Tensor, reached: Reached) -> Tensor:
    """Return a copy when it is made: until then its source must not be freed."""
    wait_for(reached)
    return target
