from __future__ import annotations

from pathlib import Path

import pytest

from longtake.testing.tiny.base import tiny_wan_folder
from tests.faults.cases import Whole, whole_run
from tests.faults.forked import start_server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny random-weight pipeline folder."""
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


class Wholes(dict[str, Whole]):
    """Undisturbed runs, by method, each made when it is asked for."""

    def __init__(self, model: Path, folder: Path) -> None:
        super().__init__()
        self._model = model
        self._folder = folder

    def __missing__(self, method: str) -> Whole:
        start_server()
        self[method] = made = whole_run(self._model, method, self._folder / method)
        return made


@pytest.fixture(scope="session")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Return the undisturbed runs, by method."""
    return Wholes(model, tmp_path_factory.mktemp("whole"))
