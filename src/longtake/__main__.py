"""Entry point of ``longtake``, ``python -m longtake`` and ``torchrun -m longtake``."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from longtake import __version__
from longtake.comm.launchers import number
from longtake.commands import NAME, summary
from longtake.errors import ConfigurationError
from longtake.listings import LISTINGS, kept_rows, show_listing
from longtake.quick_help import answer
from longtake.ready_configs import show_configs
from longtake.streams import open_standard_streams
from longtake.tables import Format
from longtake.threads import check_number

_FORMATS: Final[Mapping[tuple[str, ...], Format]] = {
    (): "table",
    ("--format", "table"): "table",
    ("--format=table",): "table",
    ("--format", "json"): "json",
    ("--format=json",): "json",
}
"""What may be asked of a listing."""


def main() -> None:
    """Run the command line; at once where it is only asked what there is."""
    open_standard_streams()
    match sys.argv[1:]:
        case ["--version"]:
            sys.stdout.write(f"{NAME} {__version__}\n")
        case ["--help" | "-h"]:
            sys.stdout.write(summary())
        case [command, *asked] if (format_ := _FORMATS.get(tuple(asked))) and _listed(
            command, format_
        ):
            pass
        case args:
            _answer(args)
            _check_variables()
            _quiet_imports()
            # Imports take seconds, a fifth of which goes into looking for garbage: there is little.
            gc.disable()
            with _without_peft():
                from longtake.framework.main import main as run

            gc.freeze()
            gc.enable()
            run()


def _listed(command: str, format_: Format) -> bool:
    """List what there is, where that stands in files; return whether it does."""
    for listing in LISTINGS:
        if command == listing and (rows := kept_rows(listing)) is not None:
            show_listing(listing, rows, format_)
            return True
    if command == "configs":
        show_configs(format_)
    return command == "configs"


def _answer(args: list[str]) -> None:
    """Answer what stands in a file, and end there."""
    try:
        text = answer(args)
    except ConfigurationError as error:
        sys.stderr.write(f"longtake: error: {error} [{error.code}]\n")
        raise SystemExit(2) from None
    if text is not None:
        sys.stdout.write(text)
        raise SystemExit(0)


def _check_variables() -> None:
    """Refuse variables that hold no number, which libraries read when they are imported."""
    try:
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
            number(os.environ, name, 0)
        check_number(os.environ)
    except ConfigurationError as error:
        sys.stderr.write(f"longtake: error: {error} [{error.code}]\n")
        raise SystemExit(2) from None


def _quiet_imports() -> None:
    """Silence what libraries say, when diffusers imports them, of kernels that are not there."""
    for name in ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _without_peft() -> Iterator[None]:
    """Hide PEFT, where it is installed, from libraries that import it because it is there.

    That takes a second. LoRAs are merged without it; whoever needs it can import it afterwards.
    """
    hidden = "peft" not in sys.modules
    if hidden:
        sys.modules["peft"] = None  # type: ignore[assignment]
    yield
    if hidden:
        del sys.modules["peft"]


if __name__ == "__main__":
    main()
