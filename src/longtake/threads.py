"""OpenMP threads: how those of a process wait for one another, and how many there are.

After every parallel loop, thousands of times a second, the threads of a process meet at a barrier.
GNU's OpenMP, which PyTorch's wheels for Linux contain, lets them spin there for about three
milliseconds before they sleep. On a machine of one's own that saves a little; beside a second
process the spinning threads hold the cores that the awaited ones need, and two runs take many times
as long as one after the other. So threads sleep at barriers, unless the user has chosen otherwise.

Their number is PyTorch's: ``OMP_NUM_THREADS``, or one for each core that the process may run on.
Every rank has as many as a run on one device. Sums and vector loops are cut by the number of
threads, and another cut may round otherwise: the same video comes from any number of devices only
where each has the same number of threads. Threads that sleep can be more than the cores.

OpenMP reads the environment once, when PyTorch is loaded. ``import longtake`` therefore sets it,
and processes started later inherit it. Where PyTorch was there first, ``brief_spins`` is what is
left.

Imports nothing heavy: all of this comes before PyTorch.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Final

from longtake.errors import ConfigurationError

_POLICY: Final = "OMP_WAIT_POLICY"
"""OpenMP's own variable, known to every runtime: ``ACTIVE`` or ``PASSIVE``."""
_PASSIVE: Final = "PASSIVE"
_SPINS: Final = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""How GNU's and LLVM's runtimes are told the same more precisely."""
_NUMBER: Final = "OMP_NUM_THREADS"
_NUMBERS: Final = re.compile(r"\s*0*[1-9][0-9]{0,5}\s*(,\s*0*[1-9][0-9]{0,5}\s*)*")
_BYTES_OF_A_THREAD: Final = 1 << 16
"""A loop of so many bytes per thread has all of them take part: PyTorch gives each 32,768."""


def sleep_at_barriers(environment: MutableMapping[str, str]) -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has said how they do.

    Args:
        environment: Of this process, in which PyTorch is not loaded yet, or of one to be started.
    """
    if not any(name in environment for name in (_POLICY, *_SPINS)):
        environment[_POLICY] = _PASSIVE


def check_number(environment: MutableMapping[str, str]) -> None:
    """Refuse a number of threads that is none, before OpenMP says so, and takes another one.

    Args:
        environment: Of this process, in which PyTorch is not loaded yet; an empty number is taken
            out.

    Raises:
        ConfigurationError: ``OMP_NUM_THREADS`` holds no number, nor one for each level.
    """
    if not environment.get(_NUMBER, "1").strip():
        del environment[_NUMBER]
    said = environment.get(_NUMBER, "1")
    if not _NUMBERS.fullmatch(said):
        raise ConfigurationError(
            f"the environment variable {_NUMBER} is {said[:40]!r}, but it is a number of threads, "
            f"from 1 on; unset it to have one for each core."
        )


def is_to_sleep(environment: Mapping[str, str]) -> bool:
    """Return whether threads are asked to sleep while they wait, by whomever."""
    passive = environment.get(_POLICY, "").upper() == _PASSIVE
    return passive and not any(name in environment for name in _SPINS)


@contextmanager
def brief_spins(environment: Mapping[str, str]) -> Iterator[None]:
    """Keep spins at barriers to a microsecond, where PyTorch was loaded before longtake.

    GNU's OpenMP then spins as the environment has told it, and cannot be told otherwise. But where
    a process has more threads than cores, it spins a hundred times instead of 300,000. Threads of
    a second team, asleep for as long as the context lasts, make them more. Where the runtime was
    told in time, or is another one, they change nothing.

    Args:
        environment: Of this process. Does nothing where the user wants threads to spin.
    """
    if not is_to_sleep(environment):
        yield
        return
    ready, over = threading.Event(), threading.Event()
    team = threading.Thread(target=_hold_team, args=(ready, over), name="longtake-team")
    team.daemon = True  # an interrupted process does not wait for it
    team.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        team.join()


def _hold_team(ready: threading.Event, over: threading.Event) -> None:
    """Have OpenMP make a team for this thread: it is kept until the thread ends."""
    import torch

    try:
        torch.ones(torch.get_num_threads() * _BYTES_OF_A_THREAD, dtype=torch.uint8)
    finally:
        ready.set()
    over.wait()
