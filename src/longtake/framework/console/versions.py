"""Versions of the software that a run used."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from longtake import __version__

PACKAGES: Final = ("torch", "lightning", "diffusers", "transformers", "safetensors", "av")


def versions() -> dict[str, str | None]:
    """Return versions by name; ``None`` for what is not installed."""
    found: dict[str, str | None] = {"longtake": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"python": platform.python_version(), "platform": platform.platform()}
