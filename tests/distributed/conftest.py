"""Settings of all tests that start ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longtake.testing.ranks import RankPool
from longtake.testing.strict_device import build, compiler

# The ranks have as many as this process: the serial run that they are compared with must sum in the
# same order. ``make test-kernels`` asks for more than one.
torch.set_num_threads(int(os.environ.get("LONGTAKE_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Path:
    """Return the device's library, which pytest keeps from one session to the next."""
    if compiler() is None:
        pytest.skip("the strict device is compiled, and this machine has no C++ compiler")
    return build(request.config.cache.mkdir("strict_device"))


@pytest.fixture(scope="module")
def pool(library: Path) -> Iterator[RankPool]:
    """Return a process for what runs on the device: none that knows it can forget it."""
    pool = RankPool(1, timeout=240.0)
    yield pool
    pool.close()
