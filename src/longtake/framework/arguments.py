"""Arguments from Python: options of a script or notebook, each of its type or refused.

The command line checks types by itself, before it calls anything.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from inspect import signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from longtake.errors import ConfigurationError, suggestion

_SHOWN: Final = 80
"""Characters of a value that are shown."""


def arguments_of(
    group: str,
    config: type,
    args: Sequence[object],
    options: Mapping[str, object],
    own: Collection[str] = (),
) -> dict[str, Any]:
    """Return the arguments of a dataclass of options by name, each of its field's type.

    Args:
        group: What the options are called: ``model`` or ``data``.
        config: The dataclass.
        args: Positional arguments.
        options: Keyword arguments.
        own: Fields whose values the caller looks at, whatever they are.

    Raises:
        ConfigurationError: There is no such option, one is missing, or of another type.
    """
    parameters = signature(config)
    for name in options:
        if name not in parameters.parameters:
            near = suggestion(name, parameters.parameters)
            raise ConfigurationError(f"there is no option {group}.{name}{near}.")
    try:
        given = parameters.bind(*args, **options).arguments
    except TypeError as error:
        raise ConfigurationError(f"the options {group}.* are not complete: {error}.") from error
    mine = {name: value for name, value in given.items() if name in own}
    rest = {name: value for name, value in given.items() if name not in own}
    return mine | typed(group, get_type_hints(config), rest)


def typed(group: str, hints: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Return options, each of its type.

    Paths become texts, numbers of other libraries Python's, and tuples lists, where an option
    takes those; what is made already stands for what makes it, where that needs no settings.

    Args:
        group: What the options are called.
        hints: Their types.
        values: By name.

    Raises:
        ConfigurationError: Names the option, the value and what it may be.
    """
    found = {}
    for name, value in values.items():
        fitting = _fitting(value, hints[name])
        if fitting is _NOTHING:
            raise ConfigurationError(_mistake(f"{group}.{name}", value, hints[name]))
        found[name] = fitting
    return found


_NOTHING: Final = object()


def _fitting(value: Any, hint: Any) -> Any:
    """Return the value as the type has it, or ``_NOTHING`` where it is of another."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        fitting = (_fitting(value, part) for part in parts)
        return next((one for one in fitting if one is not _NOTHING), _NOTHING)
    if origin is Literal:
        return value if isinstance(value, str) and value in parts else _NOTHING
    if origin is list:
        if not isinstance(value, list | tuple):
            return _NOTHING
        items = [_fitting(item, parts[0]) for item in value]
        return _NOTHING if any(item is _NOTHING for item in items) else items
    if origin is not None:  # of what else hints name, callables: a class that makes a part
        if parts[0] == [] and isinstance(value, parts[-1]):
            return lambda: value
        return value if callable(value) else _NOTHING
    return _plain(value, hint)


def _plain(value: Any, hint: type) -> Any:
    """Return the value as a class of numbers, texts or contracts has it."""
    is_number = not isinstance(value, bool)
    if hint is int:
        return int(value) if is_number and isinstance(value, Integral) else _NOTHING
    if hint is float:
        return float(value) if is_number and isinstance(value, Real) else _NOTHING
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, hint) else _NOTHING


def _mistake(name: str, value: object, hint: Any) -> str:
    if isinstance(value, type):
        shown = f"the class {value.__name__}"
        if value in _classes(hint, value):
            return f"{name} is {shown}; give one that is made: {value.__name__}()."
    else:
        shown = f"{str(repr(value))[:_SHOWN]}, of type {type(value).__name__}"
    return f"{name} is {shown}; it must be {_words(hint)}."


def _classes(hint: Any, value: type) -> list[type]:
    """Return the value where the type asks for an object of it."""
    parts = get_args(hint) or (hint,)
    return [value for part in parts if isinstance(part, type) and issubclass(value, part)]


def _words(hint: Any) -> str:
    """Return what a value may be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in parts)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is list:
        return f"a list of {_words(parts[0])}"
    if origin is not None:
        return f"something that makes a {_name(parts[-1])} when it is called"
    return "None" if hint is NoneType else f"a {_name(hint)}"


def _name(hint: Any) -> str:
    named = {int: "whole number", float: "number", str: "text", bool: "bool"}
    return named.get(hint) or str(getattr(hint, "__name__", hint))
