"""Configurations of diffusers models."""

from __future__ import annotations

import inspect
from typing import Any


def with_defaults(model: type, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with what its file leaves out, as diffusers would fill it in.

    Args:
        model: The diffusers class, for its constructor's defaults.
        config: From the file.
    """
    parameters = inspect.signature(model.__init__).parameters  # type: ignore[misc]
    return {name: parameter.default for name, parameter in parameters.items()} | config
