"""Refusal of a run: one sentence, printed once for each machine's ranks, and an end of all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

import torch.distributed as dist

from longtake.comm.interfaces import LOOPBACK
from longtake.comm.launchers import Launcher, is_first_here, launcher_of, number
from longtake.errors import LongtakeError, OutputError, RankFailure
from longtake.framework.launch.meeting import Meeting
from longtake.framework.launch.processes import leave
from longtake.framework.launch.slurm import SlurmStep

PATIENCE: Final = 20.0
"""Seconds that the first rank of a machine has for what all of its ranks have found."""
HEARD: Final = timedelta(minutes=3)
"""How long the ranks of a step have to hear that there will be no run: machines start and import at
different times, and who comes later waits for nobody for as long as a meeting does."""
HEARD_BY_HAND: Final = timedelta(minutes=1)
"""The same of machines on each of which somebody has started the run, and waits for the prompt."""
_HERE: Final = (LOOPBACK, "localhost", "::1")
_MISTAKE: Final = 2
"""The exit status of a refused run."""
_SHOWN: Final = 200
"""Characters of a file's name that are shown."""


def refuse(sentence: str, code: str) -> None:
    """Print why a run ends. Any rank, before or after the ranks have met.

    Before that, all ranks find the same mistakes and the first of each machine prints them. A
    launcher ends all ranks with the first one that ends, so the others wait: whoever is not ended
    meanwhile has found a mistake of its own, and prints it. srun ends nobody, and nobody ends what
    was started by hand on another machine: such ranks report to one another.

    Args:
        sentence: What was asked, why not, and what to do instead.
        code: Of the error; see docs/errors.md.
    """
    said = f"longtake: error: {sentence} [{code}]\n"
    over = dist.is_initialized() or code == RankFailure.code
    others = None if over else _step(os.environ) or _other_machines(os.environ)
    if others is not None and others.rank > 0 and others.world_size:  # one terminal for all
        unsaid = replace(others, abandon=lambda _: _leave(said))
        if not _called_off(unsaid):
            _print(said)
        return
    if others is None and not (dist.is_initialized() or is_first_here(os.environ)):
        time.sleep(PATIENCE)
    _print(said)
    if others is not None:
        _called_off(replace(others, abandon=lambda _: _leave("")))


def call_off() -> None:
    """Report to the other ranks that there will be no run, where nothing else does."""
    if dist.is_initialized():
        return
    others = _step(os.environ) or _other_machines(os.environ)
    if others is not None:
        _called_off(others)


def _step(environment: Mapping[str, str]) -> Meeting | None:
    """Return where the ranks of a step meet, if srun has started this one."""
    with suppress(LongtakeError):  # about variables: what is on its way is the one to show
        if launcher_of(environment) is Launcher.SRUN:
            step = SlurmStep(environment)
            return Meeting(
                host=step.main_address,
                port=step.main_port,
                rank=step.global_rank(),
                world_size=step.world_size(),
                one_machine=step.nodes == 1,
                patience=HEARD,
                say=lambda _: None,
            )
    return None


def _other_machines(environment: Mapping[str, str]) -> Meeting | None:
    """Return where ranks meet that were started by hand, if this is its machine's first process.

    Commands that only plan or list may be given where such variables are set: no other machine
    waits for them. A process that has started its machine's ranks has a ``LOCAL_RANK``, and goes to
    the meeting: what it refuses then is the meeting. How many ranks there are may be what the run
    is refused for.
    """
    with suppress(LongtakeError):
        host = environment.get("MASTER_ADDR", LOOPBACK)
        runs = "predict" in sys.argv and launcher_of(environment) is Launcher.LONGTAKE
        by_hand = runs and "NODE_RANK" in environment and "LOCAL_RANK" not in environment
        if by_hand and "MASTER_PORT" in environment and host not in _HERE:
            return Meeting(
                host=host,
                port=number(environment, "MASTER_PORT"),
                rank=number(environment, "NODE_RANK"),
                world_size=0,
                one_machine=False,
                patience=HEARD_BY_HAND,
                say=lambda _: None,
            )
    return None


def _called_off(meeting: Meeting) -> bool:
    """Report that there will be no run; return whether another rank has said why before."""
    try:
        return meeting.call_off()
    except (LongtakeError, OSError, RuntimeError):
        return False  # nobody can be told


def _leave(said: str) -> None:
    """End this process from another thread: what answers at the address is no store."""
    _print(said)
    leave(_MISTAKE)


def _print(said: str) -> None:
    sys.stderr.write(said)
    sys.stderr.flush()


def refuse_machine(error: Exception) -> bool:
    """Print that a file or the memory is at fault; return ``False`` where longtake is.

    See ``refuse``.
    """
    match error:
        case OSError(strerror=str(why)):
            name = "" if error.filename is None else f" {str(error.filename)[:_SHOWN]!r}"
            refuse(f"the machine refuses a file{name}: {why}.", OutputError.code)
        case MemoryError():
            refuse("this needs more memory than there is.", OutputError.code)
        case _:
            return False
    return True
