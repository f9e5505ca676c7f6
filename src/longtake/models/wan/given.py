"""Given frames of Wan's image-to-video models: which there are, and what the models are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import CLIPVisionConfig

from longtake.errors import ModelError
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.loading.folder import ModelFolder
from longtake.models.spec import BackboneSpec
from longtake.models.wan.encoder import WanEncoder, image_channels
from longtake.models.wan.image import encode_images


def encode_given(
    folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, device: torch.device
) -> ConditioningFrames:
    """Encode the first frames of a video and, if there is one, its last picture.

    The last picture stands in the input channels of the last latent frame, wherever that is, and
    Wan 2.1 FLF2V sees both pictures in every block.

    Args:
        folder: The pipeline folder.
        spec: Of a backbone with input channels for given frames.
        given: Of later pictures only the one at the last latent frame is looked at.
        device: Where to encode.

    Returns:
        On the CPU.
    """
    compression, latent_frames = spec.compression, spec.native_frames
    pictures = [given.start[:1][0] if given.original is None else given.original]
    last = None
    if given.latent_frames is not None and given.latent_frames - 1 in given.pictures:
        latent_frames = min(latent_frames, given.latent_frames)
        last = given.pictures[given.latent_frames - 1]
        pictures.append(last)
    # A native clip, gray where nothing is known; the rest of a long video is like its midst.
    length = compression.video_frames(latent_frames)
    clip = WanEncoder.load(folder, device).encode(given.start, length, last)
    known = compression.latent_frames(len(given.start))
    prompts = {}
    if folder.has("image_encoder"):  # it has a size and a crop of its own
        prompts["image"] = encode_images(folder, pictures, device)
    channels = image_channels(known, clip, compression.temporal)
    start = ConditioningFrames(latents=clip[:, :, :known], channels=channels, prompts=prompts)
    if last is None or given.latent_frames is None:
        return start
    end = channels[:, :, -1:].clone()
    end[:, compression.temporal - 1] = 1.0  # its last video frame is known
    at = {given.latent_frames - 1: end}
    return replace(start, channels=channels[:, :, :-1], channels_at=at)


def blank_given(
    folder: ModelFolder, spec: BackboneSpec, height: int, width: int
) -> ConditioningFrames:
    """Return what ``encode_given`` returns, of the right shapes alone.

    Args:
        folder: The pipeline folder.
        spec: Of a backbone with input channels for given frames.
        height: Latent height ``H``.
        width: Latent width ``W``.
    """
    latents = torch.empty(1, spec.channels, 1, height, width)
    channels = torch.empty(1, spec.compression.temporal + spec.channels, 1, height, width)
    prompts = {}
    if folder.has("image_encoder"):
        tokens = _image_tokens(folder) * (2 if spec.needs_end else 1)
        width = folder.config("image_encoder")["hidden_size"]
        prompts["image"] = torch.empty(1, tokens, width)
    return ConditioningFrames(latents=latents, channels=channels, prompts=prompts)


def wan_start(
    folder: ModelFolder, config: dict[str, Any], channels: int, temporal: int
) -> Literal["replaced", "channels"]:
    """Return how videos of a folder begin with given frames.

    Args:
        folder: The pipeline folder.
        config: Of its transformer.
        channels: Of the latents.
        temporal: Video frames per latent frame.

    Raises:
        ModelError: Its transformer takes something else besides the latents.
    """
    image, further = config["image_dim"] is not None, config["in_channels"] - channels
    if further == 0 and not image:
        return "replaced"
    if further != channels + temporal:
        raise ModelError(
            f"{folder.path} has a transformer of {further} input channels besides {channels} of "
            f"latents; Wan I2V has {channels + temporal} (Wan 2.1 I2V, Wan 2.2 I2V A14B)."
        )
    if image and not folder.has("image_encoder"):
        raise ModelError(f"{folder.path} needs an image_encoder, which model_index.json lacks.")
    return "channels"


def needs_end(folder: ModelFolder, config: dict[str, Any]) -> bool:
    """Return whether a transformer has positions of two images: Wan 2.1 FLF2V.

    Raises:
        ModelError: It has positions, but of another number of tokens.
    """
    positions = config["pos_embed_seq_len"]
    if positions is None:
        return False
    if not folder.has("image_encoder") or positions != 2 * _image_tokens(folder):
        tokens = _image_tokens(folder) if folder.has("image_encoder") else 0
        raise ModelError(
            f"{folder.path} has a transformer with image positions {positions}, but its image "
            f"encoder makes {tokens} tokens of each of two pictures, {2 * tokens} together."
        )
    return True


def _image_tokens(folder: ModelFolder) -> int:
    encoder = CLIPVisionConfig(**folder.config("image_encoder"))
    return int(encoder.image_size // encoder.patch_size) ** 2 + 1
