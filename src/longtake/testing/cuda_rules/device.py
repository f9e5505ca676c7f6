"""Emulated device: transfers hold up its queues, and what waits for it waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longtake.testing.cuda_rules.order import Sent

POLL: Final = 1e-4
"""Seconds between two looks at what has begun."""


class Hang(Exception):
    """What a rank does would not end on a GPU."""


@final
@dataclass(frozen=True, slots=True)
class Drain:
    """A wait for the whole device that found transfers begun.

    Args:
        why: In words.
        transfers: How many.
        seconds: Until they were through.
    """

    why: str
    transfers: int
    seconds: float


@final
class EmulatedDevice:
    """A rank's device, on which transfers hold up queues; computing is done where it always is.

    Args:
        queues: Hardware queues that streams of transfers share.
        patience: Seconds after which what is waited for counts as hanging.
    """

    def __init__(self, queues: int = 2, patience: float = 10.0) -> None:
        self.asked = 0
        """How often the run itself has asked to wait for the whole device."""
        self.drains: list[Drain] = []
        """Waits for the whole device that found transfers begun."""
        self.log: list[Sent] = []
        self._patience = patience
        self._queues = [_Queue() for _ in range(queues)]
        self._streams: dict[str, _Queue] = {}
        self._begun: list[Begun] = []
        self._lock = threading.Lock()

    def begin(self, stream: str, what: str, start: Callable[[], Sequence[Any]]) -> Begun:
        """Begin a transfer behind what has begun on its stream; returns at once.

        Args:
            stream: Name of the stream; new ones take the hardware queues in turn.
            what: In words.
            start: Begins it on gloo, and returns what to wait for.
        """
        begun = Begun(what, start, self._patience)
        with self._lock:
            if stream not in self._streams:
                self._streams[stream] = self._queues[len(self._streams) % len(self._queues)]
            self._begun = [one for one in self._begun if not one.through] + [begun]
            self._streams[stream].add(begun)
        return begun

    def synchronize(self, why: str = "torch.cuda.synchronize") -> None:
        """Wait for the whole device.

        Args:
            why: In words.

        Raises:
            Hang: Something that has begun does not end.
        """
        with self._lock:
            waiting = [one for one in self._begun if not one.through]
        start = time.monotonic()
        while not all(one.through for one in waiting):
            if time.monotonic() > start + self._patience:
                names = ", ".join(one.what for one in waiting if not one.through)
                raise Hang(f"{why} waits for the whole device, which waits for: {names}")
            time.sleep(POLL)
        if waiting:
            self.drains.append(Drain(why, len(waiting), time.monotonic() - start))

    @contextmanager
    def rules(self) -> Iterator[None]:
        """Have what this thread computes wait for the device where CUDA would."""
        with mock.patch.object(torch.cpu, "synchronize", self._asked), _FirstLaunches(self):
            yield

    def _asked(self, device: object = None) -> None:
        self.asked += 1
        self.synchronize()

    def close(self) -> None:
        """End the threads of the queues."""
        for one in self._queues:
            one.close()


@final
class Begun:
    """A transfer that has begun on this rank.

    Args:
        what: In words.
        start: Begins it.
        patience: Seconds after which it hangs.
    """

    def __init__(self, what: str, start: Callable[[], Sequence[Any]], patience: float) -> None:
        self.what = what
        self.through = False
        self._start = start
        self._patience = patience
        self._since = time.monotonic()
        self._error: Exception | None = None

    def run(self) -> None:
        """Bring it through (thread of the queue)."""
        try:
            for work in self._start():
                work.wait()
        except RuntimeError as error:
            self._error = error
        self.through = True

    def ended(self) -> bool:
        """Return whether it is through.

        Raises:
            Hang: It ought to be by now.
        """
        if self._error is not None:
            raise self._error
        if not self.through and time.monotonic() - self._since > self._patience:
            raise Hang(f"{self.what} does not come to its end")
        return self.through


@final
class _Queue:
    """A hardware queue: what is in it goes one after another, whatever stream it is of."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Begun | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="emulated-queue", daemon=True).start()

    def add(self, begun: Begun) -> None:
        """Add at the end."""
        self._items.put(begun)

    def close(self) -> None:
        """End behind what is there."""
        self._items.put(None)

    def _run(self) -> None:
        while (begun := self._items.get()) is not None:
            begun.run()


@final
class _FirstLaunches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Waits for the device at the first launch of each kernel, as lazy module loading may.

    Args:
        device: The rank's.
    """

    def __init__(self, device: EmulatedDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._seen: set[tuple[object, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what was asked for."""
        kernel = (func, *(tuple(arg.shape) for arg in args if isinstance(arg, Tensor)))
        if kernel not in self._seen and func.namespace == "aten" and not func.is_view:
            self._seen.add(kernel)
            self._device.synchronize(f"the first launch of {func}")
        return func(*args, **(kwargs or {}))
