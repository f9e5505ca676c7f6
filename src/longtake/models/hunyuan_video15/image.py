"""Image encoder (SigLIP) of HunyuanVideo 1.5 I2V: what it says of the first frame."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from longtake.models.base import Placement
from longtake.models.loading.encoders import load_encoder, load_image_processor
from longtake.models.loading.folder import ModelFolder


def image_tokens(folder: ModelFolder) -> int:
    """Return how many tokens the image encoder makes of an image."""
    config = SiglipVisionConfig(**folder.config("image_encoder"))
    return int(config.image_size // config.patch_size) ** 2


@torch.no_grad()
def encode_image(folder: ModelFolder, image: Tensor, device: torch.device) -> Tensor:
    """Load the image encoder, encode as the pipeline does, and free it.

    Args:
        folder: The pipeline folder.
        image: ``(height, width, 3)`` uint8 RGB, of the video's size.
        device: Where to encode, in fp32.

    Returns:
        States ``(1, L, width of the encoder)`` on the CPU.

    Raises:
        ModelError: The encoder or its processor cannot be loaded.
    """
    # Here, not above: where torchvision is not installed transformers warns of it on import.
    from diffusers import HunyuanVideo15ImageToVideoPipeline
    from transformers import SiglipImageProcessor

    place = Placement(device, torch.float32)
    encoder = load_encoder(folder, "image_encoder", SiglipVisionModel, place)
    processor = load_image_processor(folder, "feature_extractor", SiglipImageProcessor)
    picture = Image.fromarray(image.cpu().numpy())
    states: Tensor = HunyuanVideo15ImageToVideoPipeline._get_image_embeds(
        encoder, processor, picture, device
    )
    return states.float().cpu()
