"""Trust options of the command line, and the classes that a config may name."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jsonargparse import Namespace, set_parsing_settings

from longtake.errors import ConfigurationError
from longtake.models.trust import HUB_KERNELS, PLUGINS, kernel_commit, plugins_allowed

_OPTIONS: Final = {"--plugins": PLUGINS, "--allow_hub_kernels": HUB_KERNELS}
"""Options that no YAML file can set, and the variable that each is."""
HELP: Final = (
    "On the command line only, never in a YAML file: --plugins none resolves longtake's own "
    "names alone (a class_path imports its module, which is trust in it); --allow_hub_kernels "
    "COMMIT lets model.attention download kernels, which are code, of that commit."
)
NOT_BY_NAME: Final = (
    "longtake.strategies.from_plan",
    "longtake.models.samplers.diffusers_sampler",
)
"""Our own modules with subclasses of contracts that are made from other objects."""


def taken(args: Sequence[str], environment: MutableMapping[str, str]) -> list[str]:
    """Take the trust options out of a command line, into the environment.

    Args:
        args: Of the command.
        environment: The process's environment variables; changed.

    Returns:
        The other arguments.

    Raises:
        ConfigurationError: One has no value, or none that it can have.
    """
    left: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if name not in _OPTIONS:
            left.append(arg)
            continue
        given = value if equals else next(rest, None)
        if given is None:
            raise ConfigurationError(f"{name} is given without a value; see longtake predict -h.")
        environment[_OPTIONS[name]] = given
    kernel_commit(environment)
    plugins_allowed(environment)
    return left


def restrict(*, plugins: bool) -> None:
    """Have the parser make only what a parameter's type names, and import only what it may.

    For the whole process, before anything is parsed: what is forbidden stays so.

    Args:
        plugins: Whether classes may be named that are not longtake's own.
    """
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=[*NOT_BY_NAME, *(() if plugins else ("*",))],
        import_path_allowlist=[] if plugins else ["longtake"],
    )


def check_classes(config: object) -> None:
    """Refuse a config that would call what is no class, such as a function by its import path.

    Args:
        config: As parsed, before anything in it is made.

    Raises:
        ConfigurationError: Names the option, also where a class gets options that nobody has
            looked at (``dict_kwargs``) and takes none.
    """
    for key, value in _items(config):
        if isinstance(value, _Unchecked):
            raise ConfigurationError(
                f"{key} has dict_kwargs, but {value.name} takes no options beside those of its "
                f"init_args."
            )
        if callable(value) and not isinstance(value, type | os.PathLike):
            name = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
            raise ConfigurationError(
                f"{key} is {name}, a function; a config names classes only: subclasses of what "
                f"the option takes."
            )


@dataclass(frozen=True, slots=True)
class _Unchecked:
    """Options, ``dict_kwargs``, of a class that takes none but its own.

    Args:
        name: The class's.
    """

    name: str


def _items(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield everything in a config, with what it is called."""
    if isinstance(value, Namespace | dict):
        content: dict[Any, Any] = dict(vars(value)) if isinstance(value, Namespace) else value
        path = content.get("class_path")
        if isinstance(path, str):
            yield key, (made := _named(path))
            if content.get("dict_kwargs") is not None and not _takes_any(made):
                yield key, _Unchecked(path.rpartition(".")[2])
        for name, inner in content.items():
            yield from _items(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _items(inner, key)
    elif value is not None and not inspect.isclass(value):
        yield key, value


def _named(path: str) -> object:
    """Return what an import path names, which the parser has imported; ``None``: it has not."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:end]))
        if found is not None:
            for name in parts[end:]:
                found = getattr(found, name, None)
            return found
    return None


def _takes_any(made: object) -> bool:
    """Return whether a class takes options by any name (``**kwargs``)."""
    if not inspect.isclass(made):
        return False
    parameters = inspect.signature(made).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
