"""Processes of other ranks: one that is left alone ends, whoever still listens."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from typing_extensions import override

from longtake.framework.launch import processes


class Deaf(io.StringIO):
    """A pipe whose reader is gone."""

    @override
    def write(self, text: str) -> int:
        raise BrokenPipeError

    @override
    def flush(self) -> None:
        raise BrokenPipeError


def test_a_process_ends_though_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the one that started it was killed: it would wait for the others for half an hour."""
    monkeypatch.setattr(os, "_exit", sys.exit)  # which can be caught
    monkeypatch.setattr(sys, "stdout", Deaf())
    monkeypatch.setattr(sys, "stderr", Deaf())
    with pytest.raises(SystemExit) as ended:
        processes._end("the process that started this one is gone.")
    assert ended.value.code == 1


def test_a_process_that_is_stopped_before_the_ranks_have_met_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ended(Exception):
        pass

    def end(why: str) -> None:
        raise Ended(why)

    monkeypatch.setattr(processes, "_end", end)
    monkeypatch.setattr(processes, "_GRACE", 0.5)
    monkeypatch.setattr(processes, "_LOOK", 0.1)
    met, over = threading.Event(), threading.Event()
    with subprocess.Popen(["sleep", "60"]) as other:
        launched = processes.RankProcesses(LightningEnvironment(), 2, 1)
        launched.procs = [other]
        launched.met = met
        try:
            other.send_signal(signal.SIGSTOP)
            with pytest.raises(Ended, match=r"of rank 0 was stopped \(SIGSTOP\)"):
                parent_of(monkeypatch, other.pid, met)
            met.set()  # from then on the ranks watch one another
            watching = threading.Thread(target=launched._watch_children, args=(over,))
            watching.start()
            watching.join(1.5)
            assert watching.is_alive()
            over.set()
            watching.join()
            met.clear()
            with pytest.raises(Ended, match=r"of local rank 1 was stopped \(SIGSTOP\)"):
                launched._watch_children(threading.Event())
        finally:
            other.kill()
    assert other.returncode == -signal.SIGKILL


def parent_of(monkeypatch: pytest.MonkeyPatch, parent: int, met: threading.Event) -> None:
    """Watch a process as if it had started this one."""
    monkeypatch.setattr(os, "getppid", lambda: parent)
    processes._watch_parent(parent, threading.Event(), met)
