"""Runner of hostile input: one forked child per input, with limits on memory and time."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn

from longtake.comm.launchers import is_first_here
from longtake.framework.main import main
from longtake.framework.trainer import InferenceTrainer

INPUTS: Final = "in"
OUTPUT: Final = "out"
_SAID: Final = "said"
_LIMIT: Final = 4 << 30
"""Bytes that an input may take, beside what the process has already."""
_CLOCK: Final = 10
"""By the clock an input may take so many times what it may take of a processor: others run too."""


class Verdict(StrEnum):
    """What became of an input: the first two are as it should be."""

    REFUSED = "refused"
    MADE = "made"
    TRACEBACK = "traceback"
    STATUS = "other status"
    SILENT = "no sentence"
    WORDY = "many lines"
    HANG = "hang"
    STRAY = "stray file"

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self in (Verdict.REFUSED, Verdict.MADE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run with an input has come to.

    Args:
        verdict: In a word.
        said: What it printed on stderr.
        seconds: How long it took.
    """

    verdict: Verdict
    said: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Case:
    """An input.

    Args:
        args: Of the command.
        environment: Further environment variables.
        makes: Whether weights are read and the video is made; else all checks alone.
    """

    args: Sequence[str]
    environment: dict[str, str]
    makes: bool = False


def run(case: Case, folder: Path, patience: int, *, real: bool = False) -> Outcome:
    """Run the command in a child.

    Args:
        case: The input; its files are in ``folder / "in"`` already.
        folder: Of this input alone: the working directory.
        patience: Seconds of a processor that it may take.
        real: Whether the child becomes a Python of its own, as a shell would start it; where no
            video is to be made it plans one.
    """
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_here(case, folder, patience, real)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - before
    said = (folder / _SAID).read_bytes().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    verdict = _verdict(code, said, folder)
    if verdict is Verdict.SILENT and not is_first_here(os.environ | case.environment):
        verdict = Verdict.REFUSED  # another process of the run has said why
    return Outcome(verdict, said, seconds)


def _run_here(case: Case, folder: Path, patience: int, real: bool) -> NoReturn:
    status = 70
    try:
        os.chdir(folder)
        said = os.open(_SAID, os.O_WRONLY | os.O_CREAT)
        null = os.open(os.devnull, os.O_RDWR)
        for stream, target in ((0, null), (1, null), (2, said)):
            os.dup2(target, stream)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_CLOCK * patience)
        resource.setrlimit(resource.RLIMIT_CPU, (patience, patience + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _LIMIT, held + _LIMIT))
        os.environ.update(case.environment)
        if real:
            command = [sys.executable, "-m", "longtake", *_planned(case)]
            os.execv(sys.executable, [word.replace("\0", "") for word in command])
        if not case.makes:
            InferenceTrainer.predict = _made  # type: ignore[method-assign]
        status = _status(lambda: main(list(case.args)))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _planned(case: Case) -> list[str]:
    args = list(case.args)
    if not case.makes and "predict" in args:
        args[args.index("predict")] = "plan"
    return args


def _made(*_: object, **__: object) -> None:
    """Stand for ``InferenceTrainer.predict``, once everything has been checked."""


def _status(run_main: Callable[[], None]) -> int:
    try:
        run_main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _verdict(code: int, said: str, folder: Path) -> Verdict:
    lines = [line for line in said.splitlines() if line]
    errors = [line for line in lines if line.startswith("longtake: error: ")]
    if "Traceback (most recent call last)" in said:
        return Verdict.TRACEBACK
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        return Verdict.HANG
    if code not in (0, 2):
        return Verdict.STATUS
    if any(entry.name not in (INPUTS, OUTPUT, _SAID) for entry in folder.iterdir()):
        return Verdict.STRAY
    if code == 0:
        return Verdict.MADE
    if not errors:
        return Verdict.SILENT
    own = [line for line in lines if line.startswith(("longtake: ", "event="))]
    return Verdict.REFUSED if len(errors) == 1 and own == lines else Verdict.WORDY
