"""Prompts of HunyuanVideo I2V, each encoded beside the picture that its video starts from.

Llava sees the picture before the prompt, so what it makes of the words depends on the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, LlavaModel

from longtake.models.base import Placement, PromptStates
from longtake.models.loading.encoders import load_image_processor
from longtake.models.loading.folder import ModelFolder
from longtake.models.text import encode_with_pipeline, join_prompts

TEXT_TOKENS: Final = 256
"""Tokens of a prompt, padding included: what the pipeline asks for."""
_CUT: Final = 4
"""Tokens after the prompt, the assistant's header, that the pipeline cuts out."""
_IMAGE_TOKENS: Final = 576
"""What Llava sees of a picture."""
_EVERY: Final = {"latent_concat": 2, "token_replace": 4}
"""Of the picture's tokens the transformer sees every second or fourth one."""

_Prompt: TypeAlias = tuple[str, Tensor | None]


def text_tokens(condition: str) -> int:
    """Return the tokens of a picture and a prompt together, padding included.

    Args:
        condition: How the transformer is told of the picture (``image_condition_type``).
    """
    return _IMAGE_TOKENS // _EVERY[condition] + TEXT_TOKENS - _CUT


def encode_beside_pictures(
    folder: ModelFolder,
    prompts: Sequence[str],
    pictures: Sequence[Tensor | None],
    condition: str,
    place: Placement,
) -> PromptStates:
    """Load the text encoders, encode the prompts as the pipeline does, and free them.

    Args:
        folder: The pipeline folder.
        prompts: Any number of them.
        pictures: One per prompt, ``(h, w, 3)`` uint8 RGB; ``None`` for a black one, as the
            pipeline has it beside the negative prompt.
        condition: How the transformer is told of the picture.
        place: Where to encode, and the dtype of the encoders' weights.

    Returns:
        One row per prompt, on the CPU.

    Raises:
        ModelError: A tokenizer, an encoder or the image processor cannot be loaded.
    """
    # Here, not above: where torchvision is not installed transformers warns of it on import.
    from diffusers import HunyuanVideoImageToVideoPipeline
    from transformers import CLIPImageProcessor

    def encode(pipeline: Any, batch: list[_Prompt]) -> PromptStates:
        # One by one: what the pipeline does with a prompt that is too long fits one prompt.
        return join_prompts([encode_one(pipeline, *prompt) for prompt in batch])

    def encode_one(pipeline: Any, prompt: str, picture: Tensor | None) -> PromptStates:
        states, pooled, mask = pipeline.encode_prompt(
            _black() if picture is None else Image.fromarray(picture.cpu().numpy()),
            [prompt],
            device=place.device,
            max_sequence_length=TEXT_TOKENS,
            image_embed_interleave=_EVERY[condition],
        )
        return {"states": states, "pooled": pooled, "mask": mask.bool()}

    return encode_with_pipeline(
        folder,
        list(zip(prompts, pictures, strict=True)),
        HunyuanVideoImageToVideoPipeline,
        {"text_encoder": LlavaModel, "text_encoder_2": CLIPTextModel},
        place,
        encode,
        others={
            "image_processor": load_image_processor(folder, "image_processor", CLIPImageProcessor)
        },
    )


def blank_prompt(folder: ModelFolder, condition: str) -> PromptStates:
    """Return states of one prompt that have the right shapes."""
    tokens = text_tokens(condition)
    width = folder.config("text_encoder")["text_config"]["hidden_size"]
    return {
        "states": torch.empty(1, tokens, width),
        "pooled": torch.empty(1, folder.config("text_encoder_2")["hidden_size"]),
        "mask": torch.ones(1, tokens, dtype=torch.bool),
    }


def _black() -> Image.Image:
    return Image.new("RGB", (64, 64))
