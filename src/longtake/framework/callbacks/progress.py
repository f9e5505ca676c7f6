"""Progress displays by name."""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.callbacks.progress_plain import PlainProgress
from longtake.framework.callbacks.progress_rich import RichProgress

ProgressKind: TypeAlias = Literal["auto", "none", "plain", "rich"]


def resolved_kind(kind: ProgressKind) -> Literal["none", "plain", "rich"]:
    """Return what ``auto`` stands for: ``rich`` where stderr is a terminal, else ``plain``."""
    if kind == "auto":
        return "rich" if sys.stderr.isatty() else "plain"
    return kind


def progress_callback(kind: ProgressKind, *, lines: bool = False) -> VideoHooks:
    """Return the progress display of that name; the one for ``none`` shows nothing.

    Args:
        kind: The name.
        lines: Whether several processes say how far they are: none of them has the terminal to
            itself, so each prints lines.
    """
    match resolved_kind(kind):
        case "none":
            return VideoHooks()
        case "rich" if not lines:
            return RichProgress()
        case _:
            return PlainProgress()
