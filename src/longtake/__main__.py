"""Entry point of ``longtake``, ``python -m longtake`` and ``torchrun -m longtake``."""

from __future__ import annotations

import gc
import sys

from longtake import __version__
from longtake.commands import NAME, summary


def main() -> None:
    """Run the command line; at once where it is only asked what there is."""
    match sys.argv[1:]:
        case ["--version"]:
            sys.stdout.write(f"{NAME} {__version__}\n")
        case ["--help" | "-h"]:
            sys.stdout.write(summary())
        case _:
            # Imports take seconds, a fifth of which goes into looking for garbage: there is little.
            gc.disable()
            from longtake.framework.cli import main as run

            gc.freeze()
            gc.enable()
            run()


if __name__ == "__main__":
    main()
