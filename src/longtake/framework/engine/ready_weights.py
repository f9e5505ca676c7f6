"""Weights of a run: downloaded where they are missing, and checked once."""

from __future__ import annotations

import os
import sys
from typing import final

from longtake.comm.launchers import is_first_here
from longtake.framework.engine.preflight import check_weights
from longtake.models import ModelFamily, ModelFolder


@final
class ReadyWeights:
    """A folder's weight files, which are compared with the model once they are all here.

    Args:
        folder: The pipeline folder.
        family: Knows the folder.

    Raises:
        ModelError: The files are here, or ought to be, and are not those of the model.
    """

    def __init__(self, folder: ModelFolder, family: ModelFamily) -> None:
        self._folder, self._family = folder, family
        self._checked = False
        if folder.hub is None or folder.is_whole:
            self._check()

    def make_ready(self) -> None:
        """Download what is missing, after saying what and how much. Idempotent.

        Raises:
            ModelError: The hub does not give the files, or they are not those of the model.
        """
        if not self._checked:
            self._folder.fetch_weights(_announce)
            self._check()

    def _check(self) -> None:
        check_weights(self._folder, self._family)
        self._checked = True


def _announce(text: str) -> None:
    """Say what takes long, on one of this machine's ranks."""
    if is_first_here(os.environ):
        sys.stderr.write(f"longtake: {text}\n")
        sys.stderr.flush()
