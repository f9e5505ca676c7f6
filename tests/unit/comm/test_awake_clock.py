"""The awake clock: time in which the process is stopped does not pass."""

from __future__ import annotations

import pytest

from longtake.comm import awake_clock as module
from longtake.comm.awake_clock import AwakeClock


class Clock:
    """Replaces ``time``."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_time_stands_still_while_the_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock()
    monkeypatch.setattr(module, "time", time)
    clock = AwakeClock()
    begun = clock.now()
    for _ in range(6):
        time.now += 0.5
        assert clock.tick() == 0.0
    assert clock.now() - begun == 3.0
    time.now += 600.0  # stopped, between two ticks
    assert clock.now() - begun == 5.0
    assert clock.tick() == 598.0
    assert clock.now() - begun == 5.0
    time.now += 1.5
    assert clock.now() - begun == 6.5
