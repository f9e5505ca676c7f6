from __future__ import annotations

from pathlib import Path

import pytest

from longtake.testing.tiny.base import tiny_wan_folder
from tests.faults.cases import METHODS, Whole, whole_run
from tests.faults.forked import start_server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny random-weight pipeline folder."""
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


@pytest.fixture(scope="session")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Return the undisturbed runs, by method."""
    folder = tmp_path_factory.mktemp("whole")
    start_server()
    return {method: whole_run(model, method, folder / method) for method in METHODS}
