"""Settings of all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from longtake.threads import sleep_at_barriers

# Before PyTorch is loaded, and for all processes that tests start.
sleep_at_barriers(os.environ)

UNIT = Path(__file__).parent / "unit"
RANKS = "tests/distributed/"
"""What starts pools of ranks, which are kept: one worker runs them all, beside other tests."""


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file is run by one worker, and so are all that start ranks."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        return "ranks" if nodeid.startswith(RANKS) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Replace ``--dist loadfile``."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, and with those whose tests wait for other processes.

    So no worker goes on alone at the end, and while one waits another one computes.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.is_relative_to(UNIT)))


def pytest_collection_finish() -> None:
    """Keep what was imported and collected, half a million objects, out of the search for garbage.

    Each search would go through all of them: a twelfth of the time of the unit tests.
    """
    gc.collect()
    gc.freeze()
