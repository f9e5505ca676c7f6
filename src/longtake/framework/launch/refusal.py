"""Refusal of a run: one sentence, printed once for each machine's ranks, and an end of all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import torch.distributed as dist

from longtake.comm.launchers import Launcher, is_first_here, launcher_of
from longtake.errors import LongtakeError, OutputError, RankFailure
from longtake.framework.launch.meeting import Meeting
from longtake.framework.launch.slurm import SlurmStep

PATIENCE: Final = 20.0
"""Seconds that the first rank of a machine has for what all of its ranks have found."""
HEARD: Final = timedelta(minutes=3)
"""How long the ranks of a step have to hear that there will be no run: machines start and import at
different times, and who comes later waits for nobody for as long as a meeting does."""
_SHOWN: Final = 200
"""Characters of a file's name that are shown."""


def refuse(sentence: str, code: str) -> None:
    """Print why a run ends. Any rank, before or after the ranks have met.

    Before that, all ranks find the same mistakes and the first of each machine prints them. A
    launcher ends all ranks with the first one that ends, so the others wait: whoever is not ended
    meanwhile has found a mistake of its own, and prints it. srun ends nobody: ranks that it has
    started tell one another.

    Args:
        sentence: What was asked, why not, and what to do instead.
        code: Of the error; see docs/errors.md.
    """
    said = f"longtake: error: {sentence} [{code}]\n"
    over = dist.is_initialized() or code == RankFailure.code
    step = None if over else _step(os.environ)
    if step is not None and step.global_rank() > 0:
        if not _call_off(step):
            _print(said)
        return
    if step is None and not (dist.is_initialized() or is_first_here(os.environ)):
        time.sleep(PATIENCE)
    _print(said)
    if step is not None:
        _call_off(step)


def call_off() -> None:
    """Tell the other ranks that there will be no run, where nothing else does."""
    if not dist.is_initialized() and (step := _step(os.environ)) is not None:
        _call_off(step)


def _step(environment: Mapping[str, str]) -> SlurmStep | None:
    """Return the step of which this process is a rank, if srun has started it."""
    with suppress(LongtakeError):  # about variables: what is on its way is the one to show
        if launcher_of(environment) is Launcher.SRUN:
            return SlurmStep(environment)
    return None


def _call_off(step: SlurmStep) -> bool:
    """Tell the other ranks, and return whether one of them has said why before."""
    try:
        return Meeting(
            host=step.main_address,
            port=step.main_port,
            rank=step.global_rank(),
            world_size=step.world_size(),
            one_machine=step.nodes == 1,
            patience=HEARD,
            say=lambda _: None,
        ).call_off()
    except (LongtakeError, OSError, RuntimeError):
        return False  # nobody can be told


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
