"""Prompts to text embeddings, through the model's own diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from longtake.errors import ModelError
from longtake.models.base import Placement
from longtake.models.folder import ModelFolder

_BATCH = 8
"""Prompts per forward: enough to fill a device, few enough to fit beside a large encoder."""


def encode_with_pipeline(
    folder: ModelFolder,
    prompts: Sequence[str],
    pipeline_class: Any,
    encoder_class: Any,
    place: Placement,
    *,
    max_tokens: int,
) -> Tensor:
    """Load the text encoder, encode the prompts as the pipeline does, and free it.

    Args:
        folder: The pipeline folder.
        prompts: Any number of them; the empty string is the unconditional prompt.
        pipeline_class: The diffusers pipeline, for its ``encode_prompt``.
        encoder_class: The text encoder's transformers class.
        place: Where to encode, and the dtype of the encoder's weights.
        max_tokens: Tokens per prompt, unless the tokenizer's own maximum is smaller.

    Returns:
        ``(prompts, L, M_text)`` on the CPU.

    Raises:
        ModelError: The tokenizer or the encoder cannot be loaded.
    """
    folder.weight_files("text_encoder")  # safetensors, or a refusal that says why
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path / "tokenizer")
        encoder = encoder_class.from_pretrained(
            folder.path / "text_encoder", dtype=place.dtype, use_safetensors=True
        ).to(place.device)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise ModelError(f"the text encoder in {folder.path} cannot be loaded: {error}") from error
    pipeline = pipeline_class(
        tokenizer=tokenizer, text_encoder=encoder, vae=None, scheduler=None, transformer=None
    )
    tokens = min(max_tokens, tokenizer.model_max_length)
    with torch.no_grad():
        batches = [
            pipeline.encode_prompt(
                list(prompts[first : first + _BATCH]),
                do_classifier_free_guidance=False,
                max_sequence_length=tokens,
                device=place.device,
            )[0].cpu()
            for first in range(0, len(prompts), _BATCH)
        ]
    return torch.cat(batches)
