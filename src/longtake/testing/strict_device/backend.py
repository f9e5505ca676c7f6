"""Backend module of the strict device: to it what ``torch.cuda`` is to CUDA."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def is_available() -> bool:
    """Return that it is there."""
    return True


def device_count() -> int:
    """Return that there is one."""
    return 1


def current_device() -> int:
    """Return its number."""
    return 0


def manual_seed_all(seed: int) -> None:
    """Seed nothing: it draws from no generator of its own."""


def _is_in_bad_fork() -> bool:
    return False


def Event() -> torch.Event:
    """Return a mark that can be put behind copies."""
    return torch.Event("strict")


def Stream(device: object = None) -> Any:
    """Return the only stream that there is."""
    return torch.Stream("strict")


def current_stream(device: object = None) -> Any:
    """Return the only stream that there is."""
    return torch.accelerator.current_stream("strict")


def device(device: object) -> AbstractContextManager[None]:
    """Make the only device the current one."""
    return nullcontext()


def stream(stream: object) -> AbstractContextManager[None]:
    """Make the only stream the current one."""
    return nullcontext()
