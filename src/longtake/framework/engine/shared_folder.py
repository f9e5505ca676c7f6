"""Shared run folder: whether every rank that is to write into it sees the one of the first rank."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Final

import torch

from longtake.comm.communicator import Communicator
from longtake.errors import ConfigurationError
from longtake.framework.engine.run_folder import MARK

_PATIENCE: Final = 10.0
"""Seconds after which a file system between machines shows what another one has written."""
_LOOK: Final = 0.2
_BYTES: Final = 16


def check_shared(folder: Path, communicator: Communicator, *, sees: bool) -> None:
    """Refuse a run folder that some rank that is to write into it does not see. Collective.

    Args:
        folder: Exists on rank 0.
        communicator: The ranks of the run.
        sees: Whether this rank is to write into it.

    Raises:
        ConfigurationError: On rank 0; names the others.
    """
    mark, told = folder / MARK, None
    if communicator.rank == 0:
        told = torch.frombuffer(bytearray(secrets.token_bytes(_BYTES)), dtype=torch.uint8)
        mark.write_bytes(bytes(told.tolist()))
    told = communicator.share(told)
    blind = sees and not _is_there(mark, bytes(told.tolist()))
    found = communicator.gather(str(int(blind)))
    if communicator.rank == 0:
        mark.unlink(missing_ok=True)
    ranks = [str(rank) for rank, said in enumerate(found) if said == "1"]
    if ranks:
        one = len(ranks) == 1
        raise ConfigurationError(
            f"each replica writes its own videos, but rank{'' if one else 's'} {', '.join(ranks)} "
            f"{'does' if one else 'do'} not see the run's folder {folder.absolute()} of rank 0; "
            f"give --output on a file system that all machines share, or set "
            f"trainer.strategy.data to 1."
        )


def _is_there(mark: Path, token: bytes) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if mark.read_bytes() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK)
