"""Processes that begin in a second: forked from one that has imported all but longtake."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

_PRELOADED: Final = [
    "cosmic_ray.mutating",
    "coverage",
    "diffusers",
    "lightning.pytorch",
    "pytest",
    "torch",
    "transformers",
]
_CONTEXT: Final = get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


def run(function: Callable[..., int], folder: Path, *args: Any, limit: float) -> int | None:
    """Run a function in a process of its own and return what it returns, ``None`` out of time.

    The process is in a folder whose ``src`` comes before the installed package. What it has
    started, such as ranks, ends with it.

    Args:
        function: Called with the folder and ``args``; must be one that can be pickled.
        folder: A checkout, or a copy of one; what is printed goes into its ``.work/pytest.log``.
        args: What can be pickled.
        limit: Seconds.
    """
    process = _CONTEXT.Process(target=_enter, args=(function, folder, args))
    process.start()
    process.join(limit)
    code = process.exitcode
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return code


def said_in(folder: Path) -> str:
    """Return the end of what the last run in a folder has printed."""
    log = _log_of(folder)
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def _log_of(folder: Path) -> Path:
    return folder / ".work" / "pytest.log"


def _enter(function: Callable[..., int], folder: Path, args: tuple[Any, ...]) -> None:
    os.setsid()
    os.chdir(folder)
    log = _log_of(folder)
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulty = [name for name in sys.modules if name.partition(".")[0] == "longtake"]
    assert not faulty, "a preloaded module has imported what a fault is to be set into"
    sys.path[:0] = [str(folder / "src"), str(folder)]
    os.environ["PYTHONPATH"] = str(folder / "src")  # also for the ranks that it starts
    sys.exit(function(folder, *args))
