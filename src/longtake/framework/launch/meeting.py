"""Meeting of a run's ranks: the address at which they find one another, and who has not come.

Ranks of one machine meet on its loopback, and connect there: no other machine reaches them.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, final

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from longtake.comm.interfaces import LOOPBACK, Route, take_interface
from longtake.errors import ConfigurationError, RankFailure
from longtake.framework.console.messages import one_line
from longtake.framework.launch.interrupt import Interrupted, StopFlag
from longtake.framework.launch.silence import Silence

PATIENCE: Final = timedelta(minutes=10)
"""How long the first rank waits for the last one: machines start and import at different times."""
_TOLD: Final = timedelta(seconds=15)
"""After so long it is said who is waited for."""
_SILENT: Final = timedelta(seconds=20)
"""After so long without a sign of life a rank that has come, or the store, counts as stalled."""
_HERE: Final = "here"
"""The keys of ranks that have come."""
_MET: Final = "met"
"""The keys of those that have seen that all have."""
_LOOK: Final = 0.2
_OFF: Final = "off"
"""The key of the first rank that has called the meeting off."""
_HEARD: Final = "heard"
"""The key of how many of the others know."""
_QUIET: Final = 1.0
"""Seconds without one more that knows after which all do, where their number is not known."""


class CalledOff(Exception):
    """Another rank has refused the run, and has said why."""


def _warn(sentence: str) -> None:
    sys.stderr.write(f"longtake: {sentence}\n")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where and how ranks meet.

    Args:
        host: Of the first rank, or of torchrun's first agent.
        port: There.
        rank: This rank.
        world_size: Number of ranks; 0 where that is not known, and ``call_off`` alone is asked for.
        one_machine: Whether all ranks are on this machine.
        stop: Set when the run is to end, also while the ranks meet.
        patience: How long the ranks wait for one another.
        told: After so long it is said who is waited for.
        silent: After so long one that has come, and does nothing more, is given up on.
        say: Takes what is said meanwhile.
        abandon: Called with a sentence, from another thread, when rank 0 does not answer any more:
            it ends the process, which hangs.
    """

    host: str
    port: int
    rank: int
    world_size: int
    one_machine: bool
    stop: StopFlag = field(default_factory=StopFlag)
    patience: timedelta = PATIENCE
    told: timedelta = _TOLD
    silent: timedelta = _SILENT
    say: Callable[[str], None] = _warn
    abandon: Callable[[str], None] = _warn

    def meet(self, environment: MutableMapping[str, str] = os.environ) -> Store:
        """Return the run's key-value store, once all ranks are there. Collective.

        Args:
            environment: Of the process; gets the network interface by which the ranks connect.

        Raises:
            ConfigurationError: The host name does not resolve, or the port is in use.
            RankFailure: A rank has not come.
            Interrupted: A signal has.
            CalledOff: A rank has refused the run.
        """
        self._resolve()
        deadline = time.monotonic() + self.patience.total_seconds()
        keeps = self.rank == 0 and not _has_agent(environment)
        if not keeps:
            self._reach(self._host(environment), deadline)
        # Whoever keeps the store waits for nobody's answers.
        seconds = math.inf if keeps else self.silent.total_seconds()
        with Silence(seconds, self._say_silent) as silence:
            store = self._store(environment)
            route = Route.to(LOOPBACK if self.one_machine else self.host, self.port)
            store.set(f"{_HERE}/{self.rank}", str(route))
            self._wait_for_all(store, deadline, silence)
            self._call_roll(store, silence)
            here = store.multi_get([f"{_HERE}/{rank}" for rank in range(self.world_size)])
        take_interface([Route.read(text.decode()) for text in here], self.rank, environment)
        return store

    def _say_silent(self) -> None:
        self.abandon(
            f"what keeps the run's store at {self._address}, rank 0 or torchrun, has not answered "
            f"rank {self.rank} for {self.silent.total_seconds():.0f} s"
        )

    def _call_roll(self, store: Store, silence: Silence) -> None:
        """Wait until all that have come have seen that all have: they live, and go on."""
        store.set(f"{_MET}/{self.rank}", "")
        missing, begun = list(range(self.world_size)), time.monotonic()
        while missing := [rank for rank in missing if not store.check([f"{_MET}/{rank}"])]:
            silence.broken()
            if time.monotonic() - begun > self.silent.total_seconds():
                raise RankFailure(
                    f"rank {self.rank} has met {_ranks(missing)} at {self._address}, which "
                    f"gave no sign of life for {self.silent.total_seconds():.0f} s since."
                )
            self._pause()

    def call_off(self, environment: Mapping[str, str] = os.environ) -> bool:
        """Say that there is nothing to meet for, and return whether another rank has said so.

        Any rank calls it in place of ``meet``. The first one waits until all have heard of it.
        ``abandon`` is called where something answers at the address that is no store.

        Args:
            environment: Of the process.

        Raises:
            ConfigurationError: The host name does not resolve, or the port is in use.
            RankFailure: The first rank has not come.
        """
        self._resolve()
        deadline = time.monotonic() + self.patience.total_seconds()
        keeps = self.rank == 0 and not _has_agent(environment)
        if not keeps:
            self._reach(self._host(environment), deadline)
        with Silence(math.inf if keeps else self.silent.total_seconds(), self._say_silent):
            store = self._store(environment)
            first = store.compare_set(_OFF, "", str(self.rank)).decode()
        self._part(store, deadline)
        return first != str(self.rank)

    def _part(self, store: Store, deadline: float) -> None:
        """Leave without having met; the first rank keeps the store until all have heard."""
        heard, since = store.add(_HEARD, int(self.rank > 0)), time.monotonic()
        while self.rank == 0 and time.monotonic() < deadline:
            quiet = heard > 0 and time.monotonic() - since > _QUIET
            if heard >= self.world_size - 1 if self.world_size else quiet:
                return
            time.sleep(_LOOK)
            if (now := store.add(_HEARD, 0)) > heard:
                heard, since = now, time.monotonic()

    def _host(self, environment: Mapping[str, str]) -> str:
        """Return where the store is listened for."""
        inside = self.one_machine and not _has_agent(environment)
        return LOOPBACK if inside else self.host

    def _store(self, environment: Mapping[str, str]) -> Store:
        """Return the store, kept by the first rank or by torchrun's agent, which is there."""
        agents, host = _has_agent(environment), self._host(environment)
        keeps, inside = self.rank == 0 and not agents, self.one_machine and not agents
        try:
            listener = socket.create_server((host, self.port)) if keeps and inside else None
            store = TCPStore(
                host,
                self.port,
                is_master=keeps,
                timeout=self.patience,
                wait_for_workers=False,
                multi_tenant=True,
                master_listen_fd=None if listener is None else listener.detach(),
            )
        except (dist.DistNetworkError, OSError) as error:
            raise self._refused(error) from error
        # A restart by torchrun finds the store of the run before.
        return PrefixStore(f"longtake/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    @property
    def _address(self) -> str:
        return f"{self.host}:{self.port}"

    def _resolve(self) -> None:
        try:
            socket.getaddrinfo(self.host, self.port)
        except socket.gaierror as error:
            raise ConfigurationError(
                f"the ranks are to meet at {self._address}, but rank {self.rank} finds no machine "
                f"of the name {self.host} ({error.strerror}); set MASTER_ADDR to the name or the "
                f"IP address of the first rank's machine."
            ) from error

    def _refused(self, error: Exception) -> ConfigurationError | RankFailure:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        if taken or "EADDRINUSE" in str(error):
            return ConfigurationError(
                f"the ranks are to meet at port {self.port}, which another program uses on this "
                f"machine; set MASTER_PORT to another one, the same for all ranks."
            )
        return RankFailure(
            f"rank {self.rank} cannot meet the others at {self._address}: "
            f"{one_line(str(error))[:200]}"
        )

    def _reach(self, host: str, deadline: float) -> None:
        """Wait until somebody listens at the address."""
        reminder, why = _Reminder(self), ""
        while time.monotonic() < deadline:
            try:
                socket.create_connection((host, self.port), timeout=2.0).close()
            except OSError as error:
                why = error.strerror or str(error)
            else:
                return
            reminder.look(f"waits for rank 0 at {self._address}, where nobody answers ({why})")
            self._pause()
        raise RankFailure(
            f"rank {self.rank} has waited for rank 0 at {self._address} for "
            f"{self.patience.total_seconds():.0f} s, but nobody answers there ({why})."
        )

    def _wait_for_all(self, store: Store, deadline: float, silence: Silence) -> None:
        reminder, missing = _Reminder(self), list(range(self.world_size))
        while True:
            try:
                if store.check([_OFF]):
                    self._part(store, min(deadline, time.monotonic() + self.told.total_seconds()))
                    raise CalledOff
                missing = [rank for rank in missing if not store.check([f"{_HERE}/{rank}"])]
                silence.broken()
            except (dist.DistError, OSError) as error:
                raise RankFailure(
                    f"rank {self.rank} waited for {_ranks(missing)} to come to {self._address}, "
                    f"but rank 0 is gone."
                ) from error
            if not missing:
                return
            if time.monotonic() > deadline:
                raise RankFailure(
                    f"rank {self.rank} has waited for {_ranks(missing)} to come to "
                    f"{self._address} for {self.patience.total_seconds():.0f} s."
                )
            if self.rank == 0:  # one speaks for all
                reminder.look(f"waits for {_ranks(missing)} to come to {self._address}")
            self._pause()

    def _pause(self) -> None:
        """Wait a little, unless the run is to end."""
        time.sleep(_LOOK)
        if self.stop.is_set():
            raise Interrupted(self.stop.signal)


@final
class _Reminder:
    """Says once what is waited for, when that has taken long."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._start = time.monotonic()
        self._said = False

    def look(self, what: str) -> None:
        """Say it, where it is time to."""
        meeting = self._meeting
        if self._said or time.monotonic() - self._start < meeting.told.total_seconds():
            return
        self._said = True
        with suppress(OSError):
            meeting.say(
                f"rank {meeting.rank} {what}; it gives up after "
                f"{meeting.patience.total_seconds():.0f} s."
            )


def _has_agent(environment: Mapping[str, str]) -> bool:
    """Whether torchrun's agent keeps the store."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank{'s' * (len(ranks) > 1)} {shown}"
