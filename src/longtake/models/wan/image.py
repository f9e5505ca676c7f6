"""Image encoder (CLIP) of Wan 2.1 I2V and FLF2V: what it says of given pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel

from longtake.models.base import Placement
from longtake.models.loading.encoders import load_encoder, load_image_processor
from longtake.models.loading.folder import ModelFolder


@torch.no_grad()
def encode_images(folder: ModelFolder, images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Load the image encoder, encode as the pipeline does, and free it.

    Args:
        folder: The pipeline folder.
        images: Each ``(height, width, 3)`` uint8 RGB.
        device: Where to encode, in fp32 as diffusers does.

    Returns:
        States ``(1, L, width of the encoder)`` on the CPU, one image's after the other's.

    Raises:
        ModelError: The encoder or its processor cannot be loaded.
    """
    # Here, not above: where torchvision is not installed transformers warns of it on import.
    from diffusers import WanImageToVideoPipeline
    from transformers import CLIPImageProcessor

    place = Placement(device, torch.float32)
    encoder = load_encoder(folder, "image_encoder", CLIPVisionModel, place)
    processor = load_image_processor(folder, "image_processor", CLIPImageProcessor)
    pipeline = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=None,
        image_processor=processor,
        image_encoder=encoder,
    )
    pictures = [Image.fromarray(image.cpu().numpy()) for image in images]
    states: Tensor = pipeline.encode_image(pictures, device)
    return states.float().cpu().flatten(0, 1)[None]
