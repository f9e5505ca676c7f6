"""Lines of ``key=value`` pairs, which people and programs read."""

from __future__ import annotations

from typing import TypeAlias

Value: TypeAlias = int | float | str | None


def line_of(**values: Value) -> str:
    """Return ``key=value`` pairs on one line: ``none`` for ``None``, seconds to the millisecond."""
    return " ".join(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: Value) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
