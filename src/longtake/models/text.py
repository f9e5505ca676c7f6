"""Prompts to the states of text encoders, and what the framework does with such states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from longtake.models.base import Placement, PromptStates
from longtake.models.loading.encoders import load_encoder
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.tokenizers import load_tokenizer
from longtake.models.truncation import telling

PromptT = TypeVar("PromptT")
"""A prompt, or a prompt and what is encoded with it."""
_BATCH = 8
"""Prompts per forward: enough to fill a device, few enough to fit beside a large encoder."""


def encode_with_pipeline(
    folder: ModelFolder,
    prompts: Sequence[PromptT],
    pipeline_class: Any,
    encoders: Mapping[str, Any],
    place: Placement,
    encode: Callable[[Any, list[PromptT]], PromptStates],
    others: Mapping[str, Any] | None = None,
) -> PromptStates:
    """Load the text encoders, encode the prompts as the pipeline does, and free them.

    Args:
        folder: The pipeline folder.
        prompts: Any number of them; the empty string is the unconditional prompt.
        pipeline_class: The diffusers pipeline, for its ``encode_prompt``.
        encoders: transformers classes of the pipeline's text encoders by component; the tokenizer
            of ``text_encoder_2`` is ``tokenizer_2``.
        place: Where to encode, and the dtype of the encoders' weights.
        encode: Encodes some prompts with the pipeline.
        others: What else the pipeline's constructor asks for; ``None`` for nothing.

    Returns:
        One row per prompt, on the CPU.

    Raises:
        ModelError: A tokenizer or an encoder cannot be loaded.
    """
    parts: dict[str, Any] = {"vae": None, "scheduler": None, "transformer": None, **(others or {})}
    for name, encoder_class in encoders.items():
        parts[name] = load_encoder(folder, name, encoder_class, place)
        tokenizer = name.replace("text_encoder", "tokenizer")
        parts[tokenizer] = telling(load_tokenizer(folder, tokenizer), name, folder.report)
    pipeline = pipeline_class(**parts)
    with torch.no_grad():
        batches = [
            {name: states.cpu() for name, states in encode(pipeline, batch).items()}
            for batch in (
                list(prompts[first : first + _BATCH]) for first in range(0, len(prompts), _BATCH)
            )
        ]
    return join_prompts(batches)


def join_prompts(parts: Sequence[PromptStates]) -> PromptStates:
    """Put the rows of several prompts' states together."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def split_prompts(states: PromptStates) -> list[PromptStates]:
    """Return each prompt's states on their own, as one row."""
    rows = len(next(iter(states.values())))
    return [{name: tensor[row : row + 1] for name, tensor in states.items()} for row in range(rows)]


def move_prompts(states: PromptStates, place: Placement) -> PromptStates:
    """Bring states to a device, floating-point ones in the weights' dtype (masks stay masks)."""
    return {
        name: tensor.to(place.device, place.dtype if tensor.is_floating_point() else None)
        for name, tensor in states.items()
    }


def pack_prompts(states: PromptStates) -> Tensor:
    """Return states as one tensor of bytes, for another rank."""
    return torch.frombuffer(bytearray(save(states)), dtype=torch.uint8)


def unpack_prompts(data: Tensor) -> PromptStates:
    """Return the states that ``pack_prompts`` has packed."""
    states: PromptStates = load(data.numpy().tobytes())
    return states
