"""Entry of the command line: runs a command, and ends with a sentence and an exit status."""

from __future__ import annotations

import os
import sys
import traceback

import torch.distributed as dist

from longtake.errors import LongtakeError, RankFailure
from longtake.framework.cli import LongtakeCLI
from longtake.framework.console.config_files import check_files
from longtake.framework.console.messages import one_line
from longtake.framework.console.quiet import quiet
from longtake.framework.console.trust import taken
from longtake.framework.exit_status import ExitStatus
from longtake.framework.launch.interrupt import Interrupted
from longtake.framework.launch.meeting import CalledOff
from longtake.framework.launch.processes import leave
from longtake.framework.launch.refusal import call_off, refuse, refuse_machine
from longtake.ready_configs import with_files

TRACEBACK = "LONGTAKE_TRACEBACK"
"""The variable that has the way to an error printed as well, for those who write plug-ins."""


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Exit status: see :class:`longtake.framework.exit_status.ExitStatus`.

    Args:
        args: Arguments; ``None`` for those of the process.
    """
    quiet()
    status: int
    try:
        status = run(args)
    except Interrupted as interrupt:
        leave(ExitStatus.after(interrupt.signal))  # past threads that still write or decode
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    except CalledOff:
        status = ExitStatus.MISTAKE
    except LongtakeError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        failed = isinstance(error, RankFailure)
        status = ExitStatus.FAILED if failed else ExitStatus.MISTAKE
        refuse(one_line(str(error)), error.code)
    except Exception as error:
        if not dist.is_initialized():
            if refuse_machine(error):
                raise SystemExit(ExitStatus.MISTAKE) from error
            call_off()
            raise
        traceback.print_exc()
        status = ExitStatus.FAILED
    if dist.is_initialized():
        leave(status)  # the ranks have not parted in good order: threads may hang in the transport
    if status:
        raise SystemExit(status)


def run(args: list[str] | None) -> int:
    """Run a subcommand, and return its exit status."""
    args = with_files(ordered(taken(sys.argv[1:] if args is None else args, os.environ)))
    check_files(args)
    cli = LongtakeCLI(args)
    cli.trainer.join()
    return ExitStatus.after(cli.model.stop.signal) if cli.model.cut_short else ExitStatus.DONE


def ordered(args: list[str]) -> list[str]:
    """Put the command before its ``--config``, where that came first."""
    for place, arg in enumerate(args):
        if arg in LongtakeCLI.subcommands():
            before = args[:place]
            files = bool(before) and before[0].partition("=")[0] in ("--config", "-c")
            return [arg, *before, *args[place + 1 :]] if files else args
    return args
