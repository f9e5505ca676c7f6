"""Lock of a run folder: a living run is told from a dead one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longtake.errors import OutputError
from longtake.framework.engine.run_folder import CONFIG, CONFIG_HEADER, RunFolder
from longtake.framework.engine.run_lock import LOCK, RunLock

HOLD = """
import sys
from pathlib import Path
from longtake.framework.engine.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_living_runs_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with another_run(tmp_path) as process:
        before = (tmp_path / LOCK).read_bytes()
        assert json.loads(before)["process"] == process.pid
        for overwrite in (False, True):
            folder = RunFolder(tmp_path, overwrite=overwrite)
            for enter in (folder.check, folder.create):
                with pytest.raises(OutputError, match=f"going on.*process {process.pid}"):
                    enter()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert (tmp_path / LOCK).read_bytes() == before


def test_a_dead_runs_lock_is_recognised_and_taken(tmp_path: Path) -> None:
    with another_run(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    folder = RunFolder(tmp_path)
    folder.create()
    assert json.loads((tmp_path / LOCK).read_bytes())["process"] == os.getpid()
    folder.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_given_back_can_be_taken_again(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    for lock, other in ((first, second), (second, first)):
        lock.acquire()
        with pytest.raises(OutputError, match="going on"):
            other.acquire()
        lock.release()
        lock.release()


def test_only_a_run_that_was_begun_can_be_reopened(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(OutputError, match="no run of longtake to resume"):
        folder.reopen()
    (tmp_path / CONFIG).write_text("my: own\n")
    assert not folder.holds_run
    (tmp_path / CONFIG).write_text(f"{CONFIG_HEADER} 1.0\n")
    folder.reopen()
    with pytest.raises(OutputError, match="going on"):
        RunFolder(tmp_path).check_run()
    folder.release()
