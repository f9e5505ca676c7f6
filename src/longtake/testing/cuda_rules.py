"""CUDA's rules, emulated on CPUs: what would hang or drain on GPUs does so here.

Between ranks on CPUs everything goes on by itself, so a run that hangs under NCCL passes. An
:class:`EmulatedDevice` keeps what CUDA and NCCL do:

- a transfer or an exchange holds up its queue from when one side begins it until both have;
- streams share few hardware queues: there is no progress beside one that is held up;
- a wait for the whole device (``synchronize``, memory that is given back, a teardown, the first
  launch of a kernel, which loads it) waits for everything that has begun;
- the messages of a communicator come in one order on all ranks.

A rank that waits for longer than anything here can take raises :class:`Hang`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Final, final
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from longtake.comm.communicator import Communicator
from longtake.comm.device_queue import Reached
from longtake.comm.p2p import TIMEOUT, Channel, Delivery
from longtake.comm.rank_group import BatchedGroup, Exchange, Part, RankGroup
from longtake.comm.rendezvous import RendezvousTransport, Slot, Wire
from longtake.comm.transport import Transport
from longtake.plan.ir.actions import CHANNELS

_POLL: Final = 1e-4
_STALL: Final = timedelta(seconds=60)
"""On a busy machine a healthy rank may be silent for long."""


class Hang(Exception):
    """What a rank does would not end on a GPU."""


@final
@dataclass(frozen=True, slots=True)
class Sent:
    """A message as one of its ranks began it.

    Args:
        communicator: In which.
        source: The rank that gives.
        target: The rank that gets.
        numbers: How many it holds.
    """

    communicator: str
    source: int
    target: int
    numbers: int


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
            time.sleep(_POLL)
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


@final
class EmulatedWire(Wire):
    """Messages between emulated devices, on one stream of each.

    Args:
        device: The rank's.
        group: A gloo group of its own.
    """

    def __init__(self, device: EmulatedDevice, group: dist.ProcessGroup) -> None:
        self._device = device
        self._group = group
        self._rank = dist.get_rank()

    @override
    def send(self, tensor: Tensor, target: int) -> Reached:
        start = lambda: [dist.isend(tensor, target, group=self._group)]  # noqa: E731
        return self._begin(tensor, self._rank, target, start).ended

    @override
    def receive(self, tensor: Tensor, source: int) -> Reached:
        start = lambda: [dist.irecv(tensor, source, group=self._group)]  # noqa: E731
        return self._begin(tensor, source, self._rank, start).ended

    def _begin(
        self, tensor: Tensor, source: int, target: int, start: Callable[[], Sequence[Any]]
    ) -> Begun:
        self._device.log.append(Sent("messages", source, target, tensor.numel()))
        what = f"message of {tuple(tensor.shape)} from rank {source} to rank {target}"
        return self._device.begin("messages", what, start)


@final
class PostedChannel(Channel):
    """A channel as none must be: each side begins its transfer when it likes, on its own stream.

    So that tests can show what the rules are for.

    Args:
        device: The rank's.
        name: Of its streams.
    """

    def __init__(self, device: EmulatedDevice, name: str) -> None:
        self._device = device
        self._name = name
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        start = lambda: [dist.irecv(tensor, source, group=self._group)]  # noqa: E731
        what = f"posted receive of {tuple(tensor.shape)} from rank {source}"
        return _Polled(tensor, self._device.begin(f"{self._name} in", what, start))

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        start = lambda: [dist.isend(tensor, target, group=self._group)]  # noqa: E731
        what = f"send of {tuple(tensor.shape)} to rank {target}"
        return _Polled(tensor, self._device.begin(f"{self._name} out", what, start))


@final
class _Polled(Delivery):
    def __init__(self, tensor: Tensor, begun: Begun) -> None:
        self._tensor, self._begun = tensor, begun

    @override
    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._begun.ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True


@final
class EmulatedGroup(RankGroup):
    """Exchanges within a layer, on one stream of each device: all groups of a rank share it.

    Args:
        device: The rank's.
        group: A gloo group of its own.
        name: Of the communicator.
    """

    def __init__(self, device: EmulatedDevice, group: dist.ProcessGroup, name: str) -> None:
        self._device = device
        self._group = group
        self._name = name
        self._rank = dist.get_rank(group)

    @override
    def begin(self, given: Sequence[Part], coming: Sequence[Part]) -> Exchange:
        for place, tensor in given:
            self._device.log.append(Sent(self._name, self._rank, place, tensor.numel()))
        for place, tensor in coming:
            self._device.log.append(Sent(self._name, place, self._rank, tensor.numel()))
        batch = BatchedGroup(self._group)
        start = lambda: [_Ended(batch.begin(given, coming))]  # noqa: E731
        return _Begun(self._device.begin("layers", f"an exchange of {self._name}", start))


@final
class _Ended:
    """An exchange, with the name that gloo gives to waiting for it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def wait(self) -> None:
        self._exchange.end()


@final
class _Begun(Exchange):
    def __init__(self, begun: Begun) -> None:
        self._begun = begun

    @override
    def end(self) -> None:
        while not self._begun.ended():
            time.sleep(_POLL)


@final
class EmulatedTransport(RendezvousTransport):
    """NCCL's transport, between emulated devices. Making it is collective.

    Args:
        device: The rank's.
        slot: Of the rank; tests give one that holds nothing.
    """

    name = "emulated"

    def __init__(self, device: EmulatedDevice, slot: Slot | None = None) -> None:
        self._device = device
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        super().__init__(EmulatedWire(device, group), slot)

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        group = dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
        if dist.get_rank() not in ranks:
            return None
        return EmulatedGroup(self._device, group, f"group {tuple(ranks)}")

    @override
    def abort(self) -> None:
        """Do nothing: the threads of the queues are daemons."""


@final
class PostedTransport(Transport):
    """The transport that longtake had: receives are posted ahead, whatever the device does.

    Args:
        device: The rank's.
    """

    name = "posted"

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device
        self._rest = EmulatedTransport(device)
        self._numbers = count()

    @override
    def channel(self) -> Channel:
        return PostedChannel(self._device, f"channel {next(self._numbers)}")

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        return self._rest.group(ranks)

    @override
    def abort(self) -> None:
        """Do nothing."""


@contextmanager
def emulated_ranks(
    communicator: Communicator,
    device: EmulatedDevice,
    transport: Callable[[EmulatedDevice], Transport] = EmulatedTransport,
) -> Iterator[Communicator]:
    """Connect the ranks of a pool once more, as emulated devices. Collective.

    Args:
        communicator: Of the pool.
        device: This rank's.
        transport: What connects them.
    """
    ranks = Communicator.connect(
        communicator.device, CHANNELS, _STALL, transport=lambda: transport(device)
    )
    try:
        yield ranks
    except Hang as hang:
        ranks.fail(f"Hang: {hang}")
        raise
    finally:
        ranks.close()
        device.close()


def misordered(logs: Sequence[Sequence[Sent]]) -> list[str]:
    """Return what two ranks began in different orders, in words: nothing is as it must be.

    Args:
        logs: Of all ranks; between two ranks, a communicator has one order of messages.
    """
    seen: dict[tuple[str, int, int], list[list[int]]] = {}
    for log in logs:
        of_rank: dict[tuple[str, int, int], list[int]] = {}
        for sent in log:
            link = (sent.communicator, sent.source, sent.target)
            of_rank.setdefault(link, []).append(sent.numbers)
        for link, sizes in of_rank.items():
            seen.setdefault(link, []).append(sizes)
    return [
        f"{name}: rank {source} to rank {target}"
        for (name, source, target), sides in seen.items()
        if len(sides) != 2 or sides[0] != sides[1]
    ]
