"""Options of a dataclass as the arguments of another class's constructor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

Options = ParamSpec("Options")


def options_of(
    config: Callable[Options, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, Options], None]]:
    """Give an ``__init__(self, *args, **options)`` the argument types of a dataclass.

    For type checkers alone: nothing changes when it runs. The command line finds the options by
    itself, where ``__init__`` hands them on: ``GenerationConfig(*args, **options)``.

    Args:
        config: The dataclass whose fields are the options.
    """

    def same(init: Callable[..., None]) -> Callable[Concatenate[Any, Options], None]:
        return init

    return same
