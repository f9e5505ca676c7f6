"""Null values, which the parser takes for any option: refused where its type does not."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from longtake.errors import ConfigurationError


def check_nulls(parser: ArgumentParser, config: Namespace) -> None:
    """Refuse ``null`` for options that have a value always.

    Args:
        parser: Of the command.
        config: As parsed.

    Raises:
        ConfigurationError: Names the option.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.endswith(".help"):
            continue
        value = config.get(action.dest, action.default)
        if value is None and action.default is not None and not _may_be_null(hint):
            raise _refused(action.dest)
        for option in _nulls_in(action.dest, value):
            raise _refused(option)


def _nulls_in(key: str, value: object) -> Iterator[str]:
    """Yield the options of chosen classes that are null, and must not be."""
    if isinstance(value, list):
        for inner in value:
            yield from _nulls_in(key, inner)
    if not isinstance(value, Namespace):
        return
    given = value.get("init_args")
    hints = _hints(str(value.get("class_path", "")))
    for name, inner in vars(given).items() if isinstance(given, Namespace) else ():
        if inner is None and name in hints and not _may_be_null(hints[name]):
            yield f"{key}.{name}"
        yield from _nulls_in(f"{key}.{name}", inner)


def _hints(path: str) -> dict[str, Any]:
    """Return the types of what a class that has been imported is made from."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if not inspect.isclass(found):
        return {}
    try:
        return get_type_hints(found.__init__)
    except (NameError, TypeError):  # a plug-in's own types, by names that are not there
        return {}


def _may_be_null(hint: Any) -> bool:
    return hint in (None, NoneType, Any, object) or any(
        map(_may_be_null, get_args(hint) if get_origin(hint) in (Union, UnionType) else ())
    )


def _refused(option: str) -> ConfigurationError:
    return ConfigurationError(
        f"{option} is null, but it has a value always; leave it out to have its default."
    )
