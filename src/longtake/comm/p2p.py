"""Point-to-point (P2P) channels: messages that are under way while a rank computes."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

FOREVER: Final = timedelta(days=7)
"""Stalls are found by the watch, so that a slow first block is never taken for one."""
_POLL: Final = 5e-5
"""Seconds between two looks at a CUDA event: far below any task, far above the look itself."""


class Delivery(ABC):
    """A message under way, in either direction. The tensor stays alive as long as this does."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; return whether the message is through.

        Raises:
            ConnectionError: The other side is gone.
        """


class Channel(ABC):
    """Messages of one kind, between this rank and others, in order per pair of ranks.

    Between two ranks a channel is used in one direction only: with NCCL both directions would share
    a stream, and a receive that waits would hold up the send behind it.
    """

    @abstractmethod
    def post(self, tensor: Tensor, source: int) -> Delivery:
        """Begin to receive into ``tensor`` from rank ``source``; returns at once."""

    @abstractmethod
    def send(self, tensor: Tensor, target: int) -> Delivery:
        """Begin to send ``tensor`` (contiguous) to rank ``target``; returns at once."""


@final
class HostChannel(Channel):
    """Messages over gloo. Its transfers go on in threads of its own.

    A gloo ``Work`` reports that it is through to ``wait`` alone, and an interrupted ``wait`` breaks
    the connection, so one thread per direction waits without limit and the rank looks at an
    event.

    Args:
        group: A process group that no other channel uses.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._receiving = _Waiter()
        self._sending = _Waiter()

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        return self._receiving.deliver(
            lambda: dist.irecv(tensor, source, group=self._group), tensor
        )

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        return self._sending.deliver(lambda: dist.isend(tensor, target, group=self._group), tensor)


@final
class _HostDelivery(Delivery):
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._through = threading.Event()
        self._error: str | None = None

    def succeed(self) -> None:
        self._through.set()

    def fail(self, error: RuntimeError) -> None:
        """Remember that the other side is gone."""
        self._error = str(error).splitlines()[0]
        self._through.set()

    @override
    def wait(self, seconds: float) -> bool:
        through = self._through.wait(seconds)
        if self._error is not None:
            raise ConnectionError(self._error)
        return through


@final
class _Waiter:
    """A thread that waits for transfers, one after another."""

    def __init__(self) -> None:
        self._works: queue.SimpleQueue[tuple[_HostDelivery, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def deliver(self, start: Callable[[], Any], tensor: Tensor) -> Delivery:
        if self._thread is None:  # most channels are used in one direction, many in none
            self._thread = threading.Thread(target=self._run, name="longtake-channel", daemon=True)
            self._thread.start()
        delivery = _HostDelivery(tensor)
        try:
            self._works.put((delivery, start()))
        except RuntimeError as error:
            delivery.fail(error)
        return delivery

    def _run(self) -> None:
        while True:
            delivery, work = self._works.get()
            try:
                work.wait()
                delivery.succeed()
            except RuntimeError as error:
                delivery.fail(error)


@final
class DeviceChannel(Channel):
    """Messages over NCCL, on streams of their own beside the compute stream.

    Args:
        group: A process group that no other channel uses.
        device: This rank's device.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._receiving = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._sending = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        return self._begin(self._receiving, tensor, dist.irecv, source)

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        return self._begin(self._sending, tensor, dist.isend, target)

    def _begin(self, stream: torch.cuda.Stream, tensor: Tensor, start: Any, peer: int) -> Delivery:
        # The allocator may have given the tensor memory that queued kernels still use, and a
        # tensor to send may still be computed: either way what is queued now comes first.
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            work = start(tensor, peer, group=self._group)
            work.wait()  # holds up this stream alone
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        return _DeviceDelivery(event, work, tensor)


@final
class _DeviceDelivery(Delivery):
    def __init__(self, event: torch.cuda.Event, work: Any, tensor: Tensor) -> None:
        self._event, self._work, self._tensor = event, work, tensor

    @override
    def wait(self, seconds: float) -> bool:
        deadline = time.perf_counter() + seconds
        while not self._event.query():  # type: ignore[no-untyped-call]
            if time.perf_counter() >= deadline:
                return False
            time.sleep(_POLL)
        return True


def host_channel() -> Channel:
    """Make a channel for tensors on the CPU. Collective."""
    return HostChannel(dist.new_group(backend="gloo", timeout=FOREVER))


def device_channel(device: torch.device) -> Channel:
    """Make a channel for tensors on a device. Collective.

    One for each kind of message: between two ranks, messages of a kind go in one direction.
    """
    if device.type == "cuda":
        return DeviceChannel(dist.new_group(backend="nccl"), device)
    return host_channel()
