"""Weights of a run: downloaded where they are missing, and checked once."""

from __future__ import annotations

import os
import sys
from typing import final

from longtake.comm.launchers import is_first_here
from longtake.framework.engine.resolved_model import ResolvedModel


@final
class ReadyWeights:
    """A folder's weight files, which are compared with the model once they are all here.

    Args:
        model: Whose weights.

    Raises:
        ModelError: The files are here, or ought to be, and are not those of the model.
    """

    def __init__(self, model: ResolvedModel) -> None:
        self._model = model
        if model.folder.hub is None:
            model.check_weights()

    def make_ready(self) -> None:
        """Download what is missing, after saying what and how much. Idempotent.

        Raises:
            ModelError: The hub does not give the files, or they are not those of the model.
        """
        if not self._model.weights_checked:
            self._model.folder.fetch_weights(_announce)
            self._model.check_weights()


def _announce(text: str) -> None:
    """Say what takes long, on one of this machine's ranks."""
    if is_first_here(os.environ):
        sys.stderr.write(f"longtake: {text}\n")
        sys.stderr.flush()
