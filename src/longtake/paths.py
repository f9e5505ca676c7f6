"""Path of a file or folder as a user writes it."""

from __future__ import annotations

from pathlib import Path

from longtake.errors import ConfigurationError


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` written out.

    Args:
        path: As the user gives it.

    Raises:
        ConfigurationError: It begins with a user who is not there, or can be no path.
    """
    text = str(path)
    if "\0" in text:
        raise ConfigurationError(f"{text!r} is no path: it holds a zero byte.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"the path {text[:200]} begins with {text.partition('/')[0]}, but there is no such "
            f"user on this machine; write the folder's whole name."
        ) from error
