"""Communicator: the ranks of a run, as one of them sees the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, NoReturn, Self, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from longtake.comm.activity import Activity, Limits
from longtake.comm.choice import TransportName, make_transport
from longtake.comm.gloo import GlooTransport
from longtake.comm.host_channel import HostChannel
from longtake.comm.host_messages import gather, share
from longtake.comm.p2p import TIMEOUT, Channel, Delivery
from longtake.comm.rank_group import RankGroup
from longtake.comm.replica import Replica, ReplicaChannel
from longtake.comm.run_store import RunStore
from longtake.comm.transport import Transport
from longtake.comm.watchdog import Watchdog
from longtake.errors import RankFailure

TASKS: Final = "tasks"
"""Of a request that is ended early: the tasks that run."""
BLOCKS: Final = "blocks"
"""Those whose blocks are decoded."""
_LOOK: Final = 0.2
"""Seconds after which a rank that waits looks whether the others are well."""


@final
class Communicator:
    """Process groups of a run, made once and kept for all its requests.

    Args:
        rank: This rank.
        world_size: Number of ranks.
        device: This rank's device.
        channels: By the kind of message that each is for; empty for one rank.
        host: A group for tensors on the CPU; ``None`` for one rank.
        store: The run's key-value store; ``None`` for one rank.
        watch: Signs of life; ``None`` for one rank.
        transport: What moves tensors between the ranks' devices.
        activity: What this rank does, for the watch.
        replica: Which ranks of the run these are; left out: all of them.
        groups: Those that have been made, by their ranks in the run; it gets those that are.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        channels: Mapping[str, Channel],
        host: dist.ProcessGroup | None = None,
        store: Store | None = None,
        watch: Watchdog | None = None,
        transport: Transport | None = None,
        activity: Activity | None = None,
        replica: Replica | None = None,
        groups: dict[tuple[int, ...], RankGroup | None] | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.channels = channels
        self.transport = transport or GlooTransport()
        self.activity = activity or Activity()
        self.replica = replica or Replica(0, world_size, 1)
        self._host = host
        self._store: RunStore | None = None
        if store is not None and watch is not None:  # not ``self.check``: a circle keeps groups
            self._store = RunStore(store, self.run_rank, watch.check)
        self._words = store
        self._watch = watch
        self._requests = 0
        self._agreed = 0
        self._groups = {} if groups is None else groups
        self._open: set[tuple[str, int, int]] = set()

    @classmethod
    def alone(cls) -> Self:
        """Return the communicator of a run of one rank: no process group is needed."""
        return cls(0, 1, torch.device("cpu"), {})

    @classmethod
    def connect(
        cls,
        device: torch.device,
        kinds: Mapping[str, bool],
        stall: timedelta = timedelta(seconds=10),
        abandon: Callable[[str], None] | None = None,
        transport: TransportName | Callable[[], Transport] = "auto",
        limits: Limits | None = None,
        report: Callable[[str], None] | None = None,
    ) -> Self:
        """Make the process groups of a run.

        Collective: every rank calls it once, after ``torch.distributed.init_process_group``.

        Args:
            device: This rank's device.
            kinds: Of messages, each with whether it goes from and to host memory: each gets a
                channel of its own, in the same order on all ranks.
            stall: How long a rank may give no sign of life before the others give up.
            abandon: What to do, in a thread, when this rank hangs where it cannot be told that
                the run is over: end the process.
            transport: What moves tensors between the ranks' devices, or makes it.
            limits: When an action takes too long.
            report: Gets a sentence on each that does, in a thread.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        store = dist.distributed_c10d._get_default_store()
        activity = Activity(limits)
        try:
            # Each is made by all ranks, equally often; the words of an earlier one are not for it.
            number = store.add(f"longtake/communicators/{rank}", 1)
            own = PrefixStore(f"longtake/communicator/{number}", store)
            seconds = stall.total_seconds()
            watch = Watchdog(own, rank, world_size, seconds, abandon, activity, report)
            watch.start()  # groups that do not come about hang
        except dist.DistError as error:
            raise RankFailure(f"rank {rank} has met the others, but one has gone since.") from error
        host = dist.new_group(backend="gloo", timeout=TIMEOUT)
        made = transport() if callable(transport) else make_transport(transport, device, store)
        channels: dict[str, Channel] = {
            kind: HostChannel.make() if on_host else made.channel()
            for kind, on_host in kinds.items()
        }
        dist.barrier(host)
        return cls(rank, world_size, device, channels, host, own, watch, made, activity)

    def replicas(self, size: int) -> Communicator:
        """Return the communicator of this rank's replica: all that it does concerns those alone.

        Ranks are numbered from 0 in each replica, and what stands here of rank 0 is so of each
        one's first. What concerns the run stays with this one: signs of life, failures, signals.

        Collective: all ranks of the run.

        Args:
            size: Ranks of each replica; a divisor of the number of ranks.
        """
        replica = Replica.of(self.rank, size, self.world_size)
        if replica.count == 1:
            return self
        hosts = [
            dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
            for ranks in (replica.everywhere(tuple(range(size))) if size > 1 else ())
        ]
        store: Store | None = None
        if hosts and self._words is not None:
            store = PrefixStore(f"replica/{replica.number}", self._words)
        self.activity.first_rank = replica.first
        return Communicator(
            self.rank - replica.first,
            size,
            self.device,
            {kind: ReplicaChannel(one, replica.first) for kind, one in self.channels.items()},
            hosts[replica.number] if hosts else None,
            store,
            self._watch,
            self.transport,
            self.activity,
            replica,
            self._groups,
        )

    @property
    def run_rank(self) -> int:
        """What this rank is called in the run."""
        return self.replica.first + self.rank

    def check(self, waiting_for: str) -> None:
        """Refuse to wait on when another rank is gone.

        Args:
            waiting_for: What this rank waits for, in words: ``receive hop of block 3, ...``.

        Raises:
            RankFailure: Names this rank, what it waited for, and the cause.
        """
        if self._watch is not None:
            self._watch.check(waiting_for + self._where)

    @property
    def _where(self) -> str:
        """The end of what is waited for, where there are several replicas with a rank 0."""
        return f" (replica {self.replica.number})" if self.replica.count > 1 else ""

    def wait(self, delivery: Delivery, waiting_for: str, other: int) -> None:
        """Wait until a message is through.

        Args:
            delivery: From one of ``channels``.
            waiting_for: In words.
            other: The rank on the other side.

        Raises:
            RankFailure: That rank, or any other one, is gone.
        """
        self.check(waiting_for)  # also where every message is there at once
        while not self.is_through(delivery, waiting_for, other, _LOOK):
            self.check(waiting_for)

    def is_through(
        self, delivery: Delivery, waiting_for: str, other: int, seconds: float = 0.0
    ) -> bool:
        """Return whether a message is through after at most ``seconds``; see ``wait``."""
        try:
            return delivery.wait(seconds)
        except ConnectionError as error:
            self._blame(waiting_for, other, str(error))

    @contextmanager
    def meeting(self, purpose: str) -> Iterator[None]:
        """Turn a collective that another rank has left into the reason why it has.

        Args:
            purpose: What the ranks meet for, in words: ``compute block 3, step 4``.

        Raises:
            RankFailure: Another rank is gone.
        """
        try:
            yield
        except RuntimeError as error:
            # The backends have no class of error of their own.
            if self._watch is None or not ("gloo" in str(error) or "NCCL" in str(error)):
                raise
            # Unlike a message, a collective does not report which rank is gone: the watchdog does.
            self._watch.find_cause()
            self.check(purpose)

    def _blame(self, waiting_for: str, other: int, error: str) -> NoReturn:
        """Raise for a lost connection: a rank that failed has reported why, one that died has
        not.
        """
        assert self._watch is not None
        self._watch.fail(f"rank {self.replica.first + other} is gone")
        self.check(waiting_for)
        raise RankFailure(
            f"rank {self.run_rank} waited to {waiting_for}{self._where}, but lost it: {error}."
        )

    def fail(self, cause: str) -> None:
        """Tell every rank that this one has failed, so that all of them can say why they end.

        Args:
            cause: In words, such as the error's type and message.
        """
        if self._watch is not None:
            self._watch.fail(f"rank {self.run_rank} failed: {cause}")

    def begin_request(self) -> None:
        """Begin a request. Every rank of the run calls it, equally often; no rank waits."""
        self._requests += 1

    def open(
        self, links: Iterable[tuple[str, int, int]], groups: Sequence[tuple[int, ...]] = ()
    ) -> None:
        """Make the links and groups that a request needs where they are not there yet.

        NCCL makes the communicator of a pair of ranks with their first message, and both sides
        wait for one another there: unless that is done link by link in the same order on all
        ranks, a ring of posted receives would wait for ever.

        Collective: all ranks of the mesh, for the same requests.

        Args:
            links: Kind, source and target of messages, in the same order on all ranks.
            groups: Ranks with collectives of their own, in the same order on all ranks.
        """
        self.make_groups(groups)
        for kind, source, target in links:
            if (kind, source, target) in self._open:
                continue
            self._open.add((kind, source, target))
            if self.rank == source:
                delivery = self.channels[kind].send(torch.zeros(1, device=self.device), target)
                self.wait(delivery, f"open the link to rank {target}", target)
            elif self.rank == target:
                delivery = self.channels[kind].post(torch.zeros(1, device=self.device), source)
                self.wait(delivery, f"open the link from rank {source}", source)

    def make_groups(self, groups: Iterable[tuple[int, ...]]) -> None:
        """Make groups of ranks where they are not there yet; see ``open``.

        Collective: all ranks of the run, also those that are in none of the groups. Where some
        open no links, as decode ranks, it has to be done before. Every replica makes the same.
        """
        for ranks in groups:
            for in_run in self.replica.everywhere(ranks):
                if in_run not in self._groups:
                    self._groups[in_run] = self.transport.group(in_run)

    def group(self, ranks: tuple[int, ...]) -> RankGroup:
        """Return the group of some ranks, this one among them, that has been made."""
        group = self._groups[self.replica.everywhere(ranks)[self.replica.number]]
        assert group is not None, f"rank {self.rank} is not one of {ranks}"
        return group

    @property
    def transport_name(self) -> str | None:
        """What connects the ranks' devices; ``None`` for one rank."""
        return self.transport.name if self.world_size > 1 else None

    def last_actions(self) -> list[str]:
        """Return what every rank did last, a line each; nothing where the run's store is gone."""
        return [] if self._watch is None else self._watch.last_actions()

    def announce_end(self, tasks: int, of: str = TASKS) -> None:
        """Announce that the current request ends after so many tasks (rank 0).

        Args:
            tasks: How many.
            of: What of them ends there: ``TASKS`` themselves, or ``BLOCKS`` that they finish.
        """
        self._say(f"end/{self._requests}/{of}", str(tasks), "say where the request ends")

    def announced_end(self, of: str = TASKS) -> int | None:
        """Return after how many tasks the current request ends, if rank 0 has ended it early."""
        return self._number(f"end/{self._requests}/{of}", "hear where the request ends")

    def ask_to_stop(self, signal: int) -> None:
        """Ask rank 0 to end the run: a signal has come to this rank, perhaps to it alone."""
        self._say("stop", str(signal), "ask rank 0 to end the run")

    def asked_to_stop(self) -> int | None:
        """Return the signal for which another rank has asked to end the run, if one has."""
        return self._number("stop", "hear whether the run is to end")

    def announce_parting(self, number: int, word: str) -> None:
        """Announce that a replica has made all that it was to make (its first rank).

        Args:
            number: Of the replica.
            word: What rank 0 is to know of it.
        """
        self._say(f"done/{number}", word, "say that it is done")

    def announced_partings(self, count: int) -> list[str] | None:
        """Return what all replicas have said when they were done; ``None``: one is not yet.

        Args:
            count: Number of replicas.

        Raises:
            RankFailure: Another rank is gone.
        """
        self.check("leave with the others")
        words = [self._heard(f"done/{number}", "leave with the others") for number in range(count)]
        return None if None in words else [word for word in words if word is not None]

    def announce_cut(self, number: int, index: int) -> None:
        """Announce where the current request is cut next (rank 0).

        Args:
            number: Of the cuts before.
            index: The first task that may stand behind it.
        """
        self._say(f"cut/{self._requests}/{number}", str(index), "say where the request is cut")

    def announced_cut(self, number: int) -> int | None:
        """Return where the current request is cut next; ``None``: it is ended before.

        Waits for rank 0, which announces it as it begins what lies before it.

        Args:
            number: Of the cuts before.

        Raises:
            RankFailure: Another rank is gone.
        """
        assert self._store is not None
        cut, end = f"cut/{self._requests}/{number}", f"end/{self._requests}/{TASKS}"
        word = self._store.wait(cut, "hear where the request is cut", unless=end)
        return None if word is None else int(word)

    def _say(self, key: str, word: str, purpose: str) -> None:
        if self._store is not None:
            self._store.say(key, word, purpose)

    def _heard(self, key: str, purpose: str) -> str | None:
        return None if self._store is None else self._store.heard(key, purpose)

    def _number(self, key: str, purpose: str) -> int | None:
        word = self._heard(key, purpose)
        return None if word is None else int(word)

    def channel(self) -> Channel:
        """Make a channel for tensors on the device. Collective: all ranks of the run."""
        return self._own(self.transport.channel())

    def host_channel(self) -> Channel:
        """Make a channel for tensors on the CPU, whatever the device. Collective: as above."""
        return self._own(HostChannel.make())

    def _own(self, channel: Channel) -> Channel:
        first = self.replica.first
        return ReplicaChannel(channel, first) if first else channel

    def agree(self, value: bool) -> bool:
        """Return rank 0's ``value`` on every rank. Rank 0 does not wait for the others.

        Collective: all ranks call it equally often.
        """
        if self._store is None:
            return value
        self._agreed += 1
        key = f"agreed/{self._agreed}"
        if self.rank == 0:
            self._store.say(key, str(int(value)), "decide")
            return value
        word = self._store.wait(key, "hear from rank 0")
        assert word is not None
        return bool(int(word))

    def share(self, tensor: Tensor | None) -> Tensor:
        """Return rank 0's ``tensor`` (any shape and dtype, on the CPU) on every rank. Collective.

        Args:
            tensor: What rank 0 shares; ``None`` on the others.
        """
        if self._host is None:
            assert tensor is not None
            return tensor
        with self.meeting("share what rank 0 has made"):
            return share(tensor, self._host)

    def gather(self, text: str) -> list[str]:
        """Return every rank's ``text`` on rank 0, and nothing elsewhere. Collective."""
        if self._host is None:
            return [text]
        with self.meeting("gather on rank 0"):
            return gather(text, self._host)

    def abort(self) -> None:
        """Give up every transfer, without waiting for that: the process is about to leave."""
        threading.Thread(target=self.transport.abort, name="longtake-abort", daemon=True).start()

    def close(self, patience: float = 0.0) -> None:
        """Leave in good order, or at least say no more; not collective.

        Args:
            patience: Seconds for which rank 0 waits for the others; see ``Watchdog.close``.
        """
        if self._watch is not None:
            self._watch.close(patience)
