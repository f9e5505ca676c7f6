"""Processes of this machine's other ranks: started, watched over, waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, final

import lightning.pytorch as pl
import psutil
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

from longtake.comm.launchers import number
from longtake.errors import ConfigurationError, RankFailure

_GRACE: Final = 10.0
"""Seconds that processes have to end by themselves once another one is gone."""
_FOLLOW: Final = 5.0
"""Seconds that the others have to end once this one has failed: they hear of it within one."""
_PATIENCE: Final = 60.0
"""Seconds that the others have to end after a run that went well."""
_LOOK: Final = 0.2
"""Seconds between two looks at the others."""
_SELDOM: Final = 1.0
"""The same, where all processes of the machine have to be gone through for it."""
_STOPPED: Final = (
    f"was stopped (SIGSTOP), and gave no sign of life for {_GRACE:.0f} s before the ranks had met; "
    f"start the run again."
)
_PARENT: Final = "LONGTAKE_PARENT"
"""The variable that tells a process which one has started it."""


@final
class RankProcesses(_SubprocessScriptLauncher):
    """The processes of this machine, started by its first one as copies of its own command.

    Where torchrun or srun has started them, there is nothing to start. Lightning's own launcher
    kills everything as soon as one process fails; here the others have time to say which rank
    failed, and to finish their files. Nor do ranks share the cores out, as Lightning would have
    them: each has the threads of a run on one device (see ``longtake.threads``). A process that is
    stopped before the ranks watch one another is noticed here.
    """

    def __init__(
        self, cluster_environment: ClusterEnvironment, num_processes: int, num_nodes: int
    ) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self.met = threading.Event()
        """Set once the ranks watch one another: from then on they tell who has stalled."""

    @override
    def launch(
        self,
        function: Callable[..., Any],
        *args: Any,
        trainer: pl.Trainer | None = None,
        **kwargs: Any,
    ) -> Any:
        """Start the other processes, then call ``function``."""
        environment = self.cluster_environment
        try:
            environment.validate_settings(self.num_processes, self.num_nodes)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        over = threading.Event()
        if not environment.creates_processes_externally:
            check_command(sys.argv)
            os.environ[_PARENT] = str(os.getpid())
            with _interrupts_ignored():
                self._call_children_scripts()
            _in_background(self._watch_children, over)
        elif (parent := number(os.environ, _PARENT, os.getpid())) != os.getpid():
            _in_background(_watch_parent, parent, over, self.met)
        else:
            _in_background(_watch_siblings, over, self.met)
        try:
            return function(*args, **kwargs)
        finally:
            over.set()

    def join(self, *, failed: bool) -> None:
        """Wait until the processes that were started here have ended.

        Args:
            failed: Whether this process has failed: then the others follow within seconds, or
                are killed.

        Raises:
            RankFailure: This process has not failed, but another one has.
        """
        deadline = time.monotonic() + (_FOLLOW if failed else _PATIENCE)
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self.kill(signal.SIGKILL)  # those that have ended are skipped
        for local_rank, process in enumerate(self.procs, start=1):
            if process.wait() and not failed:
                raise RankFailure(_ended(local_rank, process.returncode))

    def _watch_children(self, over: threading.Event) -> None:
        """End this process as well, should another one have failed or stalled, and it hangs."""
        stalls = [_Stall(process.pid, _LOOK) for process in self.procs]
        while not over.wait(_LOOK):
            for local_rank, process in enumerate(self.procs, start=1):
                if process.poll() and not over.wait(_GRACE):
                    self.kill(signal.SIGKILL)
                    _end(_ended(local_rank, process.returncode))
                if not self.met.is_set() and stalls[local_rank - 1].is_one():
                    self.kill(signal.SIGKILL)
                    _end(f"the process of local rank {local_rank} {_STOPPED}")


def check_command(argv: Sequence[str]) -> None:
    """Refuse to start copies of a command that cannot be repeated.

    Raises:
        ConfigurationError: It is that of a notebook, or of an interactive Python.
    """
    notebook = Path(argv[0]).name == "ipykernel_launcher.py"
    if notebook or argv[0] in ("", "-c") or hasattr(sys, "ps1"):
        raise ConfigurationError(
            "several devices are asked for from a notebook or an interactive Python, whose command "
            "cannot be started once more for each; write the run as a script, or start longtake "
            "predict --config FILE."
        )


def _watch_parent(parent: int, over: threading.Event, met: threading.Event) -> None:
    """End this process as well, should the one that started it be gone or stopped, and it hangs."""
    stall = _Stall(parent, _LOOK)
    while not over.wait(_LOOK):
        if os.getppid() != parent and not over.wait(_GRACE):
            _end("the process that started this one is gone.")
        if not met.is_set() and stall.is_one():
            _end(f"the process of rank 0 {_STOPPED}")


def _watch_siblings(over: threading.Event, met: threading.Event) -> None:
    """End this process, should another one be stopped that the same launcher has started here."""
    stalls: dict[int, _Stall] = {}
    while not met.is_set() and not over.wait(_SELDOM):
        for other in _siblings():
            if stalls.setdefault(other, _Stall(other, _SELDOM)).is_one():
                _end(f"process {other}, another rank on this machine, {_STOPPED}")


def _siblings() -> list[int]:
    """Return the other processes of the same command that this one's parent has started."""
    own = psutil.Process()
    try:
        command, parent = own.cmdline(), own.parent()
        others = [] if parent is None else parent.children()
        return [one.pid for one in others if one != own and one.cmdline() == command]
    except psutil.Error:  # one ends meanwhile
        return []


@final
class _Stall:
    """Notices that a process has been stopped for long, while this one runs.

    Args:
        process: Its number.
        look: Seconds between two looks.
    """

    def __init__(self, process: int, look: float) -> None:
        self._process = process
        self._look = look
        self._looks = 0

    def is_one(self) -> bool:
        """Look; return whether it was stopped at so many looks that it counts as stalled."""
        try:
            stopped = psutil.Process(self._process).status() == psutil.STATUS_STOPPED
        except psutil.Error:  # it is gone, which is told elsewhere
            stopped = False
        self._looks = self._looks + 1 if stopped else 0
        return self._looks * self._look > _GRACE


def leave(status: int) -> NoReturn:
    """End this process at once, past threads that hang in a dead transport."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it may be gone; this process must go as well
            stream.flush()
    os._exit(status)


def _end(why: str) -> NoReturn:
    with suppress(OSError):
        sys.stderr.write(f"longtake: error: {why}\n")
    leave(1)


def _ended(local_rank: int, status: int) -> str:
    how = f"ended with status {status}"
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    return f"the process of local rank {local_rank} {how}."


def _in_background(run: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=run, args=args, name="longtake-processes", daemon=True).start()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes start that ignore Ctrl-C until they have a handler of their own.

    It reaches all of a terminal's processes, and would end them in the midst of their imports.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
