"""Server of forked commands: each run is the child of a process that has imported everything.

A child is as ``python -m longtake`` is once that has imported what it needs: its own arguments,
environment, folder, streams and import path; it enters by the same ``main`` and ends in the same
way. What libraries read from the environment when they are imported the server is told: each
choice has a server of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NoReturn, Self, final

ROOT: Final = Path(__file__).parents[2]
READ_WHEN_IMPORTED: Final = (
    *("GOMP_", "HF_", "KMP_", "MKL_", "OMP_", "PYTHONWARNINGS", "TORCH_", "TRANSFORMERS_"),
)
"""How the names of variables begin that libraries read."""
USED_LATER: Final = (
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "longtake.framework.main",
    "transformers.models.umt5.modeling_umt5",
)
"""Modules that runs import by themselves."""
_RANK: Final = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where Lightning takes a process's rank from when it is imported."""
_NUMBER: Final = struct.Struct("i")


@final
class Forked:
    """A run that has been started; used as ``subprocess.Popen`` is.

    Args:
        args: Of ``longtake``.
        environment: All of its variables.
        own_session: Whether it leads a session and a group of processes of its own.
    """

    def __init__(
        self, args: Sequence[str], environment: Mapping[str, str], own_session: bool = False
    ) -> None:
        early = {
            name: value
            for name, value in environment.items()
            if name.startswith(READ_WHEN_IMPORTED)
        }
        server = _server(tuple(sorted(early.items())))
        asked = {
            "args": list(args),
            "environment": dict(environment),
            "folder": os.getcwd(),
            "own_session": own_session,
        }
        (theirs, request), (out, their_out), (err, their_err), (self._status, their_status) = (
            os.pipe() for _ in range(4)
        )
        handed = [theirs, their_out, their_err, their_status]
        server.ask(handed)
        for descriptor in handed:
            os.close(descriptor)
        with os.fdopen(request, "w") as file:
            json.dump(asked, file)
        self.pid = self._number()
        self.returncode: int | None = None
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()

    def poll(self) -> int | None:
        """Return the status, if it has ended."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit status, or minus the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("longtake", timeout or 0.0)
            self.returncode = self._number()
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it says to its end."""
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        reader.start()
        try:
            if timeout is not None:
                watch = threading.Timer(timeout, self.kill)
                watch.start()
            told = self.stderr.read()
            reader.join()
        finally:
            if timeout is not None:
                watch.cancel()
        self.wait(timeout)
        self.stdout.close()
        self.stderr.close()
        return said[0], told

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        """Read what the server says: the number of the process, and later its status."""
        read = os.read(self._status, _NUMBER.size)
        if len(read) < _NUMBER.size:
            raise RuntimeError("the server of forked commands has ended")
        number: int = _NUMBER.unpack(read)[0]
        return number


@final
class _Server:
    """The server as the tests see it.

    Args:
        early: Variables that libraries read when they are imported.
    """

    def __init__(self, early: Sequence[tuple[str, str]]) -> None:
        late = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(READ_WHEN_IMPORTED)
        }
        self._ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=ROOT,
            env=late | dict(early),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def ask(self, descriptors: Sequence[int]) -> None:
        """Have it start a run: a request, both streams, and where its status goes."""
        socket.send_fds(self._ours, [b"."], descriptors)

    def close(self) -> None:
        """Let it end."""
        self._ours.close()
        self._process.wait()


@cache
def _server(early: Sequence[tuple[str, str]]) -> _Server:
    """Return the server that has been told these variables; it starts with its first run."""
    return _Server(early)


def _serve(asked: socket.socket) -> int | None:
    """Fork a child for each request until nobody asks any more.

    Returns:
        In a child the descriptor of its request, its streams being set; at the end ``None``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ended, ends = os.pipe()
    os.set_blocking(ends, False)
    os.set_blocking(ended, False)
    signal.set_wakeup_fd(ends)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asked.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 1 << 10)
            _reap(children)
        if asked.fileno() not in ready:
            continue
        _, descriptors, _, _ = socket.recv_fds(asked, 1, 4)
        if not descriptors:
            return None
        request, out, err, status = descriptors
        if (child := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            asked.close()
            for other in (ended, ends, status, *children.values()):
                os.close(other)
            for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
                os.dup2(target, stream)
                os.close(target)
            return request
        for handed in (request, out, err):
            os.close(handed)
        children[child] = status
        os.write(status, _NUMBER.pack(child))


def _reap(children: dict[int, int]) -> None:
    """Tell how children have ended."""
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        told = children.pop(child)
        os.write(told, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(told)


def _settle(request: int, paths: Sequence[str]) -> None:
    """Make this process what ``python -m longtake`` with these arguments would be.

    Args:
        request: Descriptor that they are read from.
        paths: Where modules come from, but for the folder and what the environment says.
    """
    with os.fdopen(request) as file:
        asked = json.load(file)
    if asked["own_session"]:
        os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [asked["folder"], *own, *paths]
    importlib.invalidate_caches()
    entry = importlib.import_module("longtake.__main__")
    sys.argv = [str(entry.__file__), *asked["args"]]
    rank = next(filter(None, map(os.environ.get, _RANK)), "0")
    if rank.isdigit():  # else it is refused by ``main``
        importlib.import_module("lightning_utilities.core.rank_zero").rank_zero_only.rank = int(
            rank
        )
    sys.modules["__main__"].__spec__ = entry.__spec__  # by which it starts copies of itself
    sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]


def _status_of(run: Callable[[], None]) -> int:
    """Run to the end; return the status that Python would end with."""
    try:
        run()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """End this process as Python does, but leave its objects: to take each apart takes 0.4 s."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _asked = socket.socket(fileno=int(sys.argv[1]))
    _given = sum(map(bool, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    _paths = sys.path[1 + _given :]
    for _name in USED_LATER:
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()
    _request = _serve(_asked)
    if _request is not None:
        _settle(_request, _paths)
        _end(_status_of(importlib.import_module("longtake.__main__").main))
