"""Interrupts: a signal may come at any moment, also in the midst of what is being printed."""

from __future__ import annotations

import io
import signal
import sys

import pytest
from typing_extensions import override

from longtake.framework.launch.interrupt import StopFlag, stop_on_interrupt


class Interrupting(io.RawIOBase):
    """A stream in the midst of whose writing Ctrl-C comes."""

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: object, /) -> int:
        signal.raise_signal(signal.SIGINT)
        return memoryview(data).nbytes  # type: ignore[arg-type]


def test_a_signal_may_come_while_a_line_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(io.BufferedWriter(Interrupting()), line_buffering=True)
    flag = StopFlag()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with stop_on_interrupt(flag):
            sys.stderr.write("event=block_end\n")
    assert flag.signal == signal.SIGINT
    assert capfd.readouterr().err.count("ending after the current task") == 1
