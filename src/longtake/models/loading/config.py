"""Configurations of diffusers models."""

from __future__ import annotations

import inspect
from typing import Any, Final

from longtake.models.loading.folder import ModelFolder

_TOKENS: Final = 512
"""Tokens of a prompt where the tokenizer names no smaller number."""


def with_defaults(model: type, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with what its file leaves out, as diffusers would fill it in.

    Args:
        model: The diffusers class, for its constructor's defaults.
        config: From the file.
    """
    parameters = inspect.signature(model.__init__).parameters  # type: ignore[misc]
    return {name: parameter.default for name, parameter in parameters.items()} | config


def prompt_shape(folder: ModelFolder, encoder: str = "text_encoder") -> tuple[int, int]:
    """Return tokens and width of what a text encoder gives, from its configuration.

    Args:
        folder: The pipeline folder.
        encoder: Component; its tokenizer has the same number (``text_encoder_2``: ``tokenizer_2``).
    """
    config = folder.config(encoder)
    width = config.get("d_model") or config["hidden_size"]
    tokenizer = encoder.replace("text_encoder", "tokenizer")
    settings = folder.settings(f"{tokenizer}/tokenizer_config.json")
    longest = settings.get("model_max_length", _TOKENS)
    return min(_TOKENS, int(longest)), int(width)
