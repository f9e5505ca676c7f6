"""Refusal of a run: one sentence, printed once for each machine's ranks."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

import torch.distributed as dist

from longtake.comm.launchers import is_first_here
from longtake.errors import OutputError

PATIENCE: Final = 20.0
"""Seconds that the first rank of a machine has for what all of its ranks have found."""
_SHOWN: Final = 200
"""Characters of a file's name that are shown."""


def refuse(sentence: str, code: str) -> None:
    """Print why a run ends. Any rank, before or after the ranks have met.

    Before that, all ranks find the same mistakes and the first of each machine prints them. A
    launcher ends all ranks with the first one that ends, so the others wait: whoever is not ended
    meanwhile has found a mistake of its own, and prints it.

    Args:
        sentence: What was asked, why not, and what to do instead.
        code: Of the error; see docs/errors.md.
    """
    if not (dist.is_initialized() or is_first_here(os.environ)):
        time.sleep(PATIENCE)
    sys.stderr.write(f"longtake: error: {sentence} [{code}]\n")
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
