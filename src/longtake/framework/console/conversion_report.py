"""Report of a conversion, for ``longtake convert``: what was found, and what was written."""

from __future__ import annotations

import sys
from pathlib import Path

from longtake.framework.console.lines import line_of
from longtake.models import ModelFolder
from longtake.models.loading.convert import Converted


def show(file: Path, converted: Converted) -> None:
    """Print one line of ``key=value`` pairs to stdout.

    Args:
        file: The checkpoint.
        converted: What became of it.
    """
    line = line_of(
        event="convert",
        file=str(file),
        key=converted.key or None,
        left_out=",".join(converted.left) or None,
        tensors=converted.tensors,
        gb=converted.size / 1e9,
        output=str(converted.output),
    )
    sys.stdout.write(line + "\n")


def show_made(published: Path, made: ModelFolder) -> None:
    """Print one line of ``key=value`` pairs to stdout.

    Args:
        published: The folder of the transformer.
        made: The pipeline folder.
    """
    line = line_of(
        event="convert", file=str(published), pipeline=made.pipeline, output=str(made.path)
    )
    sys.stdout.write(line + "\n")
