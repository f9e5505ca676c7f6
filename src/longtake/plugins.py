"""Plug-ins: what installed packages name in entry points, with the version of their contracts.

A package states it at the end of the group's name, where it is read before any of the package's
code is run: ``[project.entry-points."longtake.models.v1"]``.
"""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeAlias

from longtake.errors import ConfigurationError

CONTRACT_VERSION: Final = 1
"""Version of the contracts in ``longtake.api``; goes up where a plug-in has to be changed."""

Kind: TypeAlias = Literal["models", "schedulers", "strategies"]
"""``models``: modules, importing which registers families; the others: classes, to be listed by
``longtake methods`` and ``longtake strategies``."""


def plug_ins(kind: Kind) -> list[Any]:
    """Import what installed packages name for ``kind``, and return it.

    Raises:
        ConfigurationError: A package is written for another version of the contracts.
    """
    found = entry_points()
    points = [point for group in found.groups for point in found.select(group=group)]
    return [point.load() for point in points if _is_for(point, kind)]


def installed(kind: Kind) -> bool:
    """Whether a package names something for ``kind``; nothing of it is imported."""
    group = f"longtake.{kind}"
    return any(one == group or one.startswith(f"{group}.") for one in entry_points().groups)


def _is_for(point: EntryPoint, kind: Kind) -> bool:
    """Whether an entry point is of a kind; refuses one that cannot work."""
    group = f"longtake.{kind}"
    if point.group == group:
        warnings.warn(
            f"{_named(point)} does not state the contracts that it is written for: name its "
            f"entry-point group {group}.v{CONTRACT_VERSION}; 0.3 will not load it otherwise.",
            FutureWarning,
            stacklevel=3,
        )
        return True
    stem, dot, version = point.group.rpartition(".v")
    if stem != group or not dot:
        return False
    if version != str(CONTRACT_VERSION):
        raise ConfigurationError(
            f"{_named(point)} is written for version {version} of longtake's contracts, and this "
            f"longtake has version {CONTRACT_VERSION}: install a version of the package that "
            f"names {group}.v{CONTRACT_VERSION}, or run without plug-ins (--plugins none)."
        )
    return True


def _named(point: EntryPoint) -> str:
    package = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
    return f"the plug-in {point.name}{package}"
