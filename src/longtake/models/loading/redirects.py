"""Redirections in a model folder: what would have a library fetch or run something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from longtake.errors import ModelError
from longtake.models.loading.numbers import settings_in

_ADAPTER: Final = "adapter_config.json"
"""Where transformers finds it, it loads the folder or hub model that it names."""
_SINGLE: Final = (int, float, bool, str, type(None))
_WHOLE: Final = frozenset({int, bool, str, type(None)})
_KERNELS: Final = "_implementation"
"""How settings end that name a kernel; one with a slash is a hub id, whose code would be run."""


def refuse_adapter(folder: Path) -> None:
    """Refuse a component's folder that stands for another one.

    Args:
        folder: Of the component.

    Raises:
        ModelError: It holds an adapter's configuration.
    """
    if (folder / _ADAPTER).exists():
        raise ModelError(
            f"{folder / _ADAPTER} names another model to load in place of this folder, which "
            f"longtake does not follow; merge the adapter into the model, or take the file away."
        )


def refuse_kernels(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that names a kernel on the hub.

    Args:
        file: Where it stands.
        config: Its content.

    Raises:
        ModelError: Names the setting.
    """
    for key, value in settings_in(config):
        if key.endswith(_KERNELS) and "/" in str(value):
            raise ModelError(
                f"{file} sets {key} to {value!r}: code from the hub, which longtake does not run; "
                f"take the setting out."
            )


def refuse_types(file: Path, model: type, config: Mapping[str, Any]) -> None:
    """Refuse lists and mappings where a model takes single values, and fractions for whole numbers.

    Some settings are used for the first time when a video is made.

    Args:
        file: Where they stand.
        model: Whose constructor's annotations say what it takes.
        config: What is given.

    Raises:
        ModelError: Names the setting.
    """
    try:
        taken = get_type_hints(model.__init__)  # type: ignore[misc]
    except Exception:  # annotations of any library: what cannot be read says nothing
        return
    for name, value in config.items():
        hint = taken.get(name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if isinstance(value, list | dict) and all(kind in _SINGLE for kind in kinds):
            raise ModelError(
                f"{file} sets {name} to {str(value)[:40]}, but {model.__name__} takes a single "
                f"value there."
            )
        taken_there = _parts_of(kinds)
        whole = int in taken_there and taken_there <= _WHOLE
        if whole and any(isinstance(one, float) for one in _parts(value)):
            raise ModelError(
                f"{file} sets {name} to {str(value)[:40]}, but {model.__name__} takes whole "
                f"numbers there."
            )


def _parts_of(kinds: Sequence[Any]) -> set[Any]:
    """Return the types of single values among types, those in lists of them included."""
    found = set[Any]()
    for kind in kinds:
        found |= _parts_of(get_args(kind)) if get_origin(kind) in (list, tuple) else {kind}
    return found - {Ellipsis}


def _parts(value: object) -> Iterator[object]:
    """Yield a value, or those in a list of lists."""
    for one in value if isinstance(value, list) else ():
        yield from _parts(one)
    if not isinstance(value, list):
        yield value
