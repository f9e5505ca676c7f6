"""HunyuanVideo's VAE as a stream: tiles that overlap in time."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.decoders.overlap import OverlapDecoder, TimeTiles
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae


def load_decoder(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> OverlapDecoder:
    """Load the VAE's decoder alone, for every family whose VAE it is.

    Raises:
        ModelError: As ``load_module``.
    """
    place, build = Placement(device, dtype), AutoencoderKLHunyuanVideo.from_config
    return hunyuan_video_decoder(load_vae(folder, build, place, without=("encoder", "quant_conv")))


def hunyuan_video_decoder(vae: AutoencoderKLHunyuanVideo) -> OverlapDecoder:
    """Return a decoder that does what ``vae.decode`` does with a whole video, as a stream.

    The VAE's convolutions and its attention look back only, but its norms see all frames of a
    tile: no cache of past frames would do, so diffusers' own temporal tiles are kept.

    Args:
        vae: With its decoder, the encoder is not needed; its tiles along time are kept, and those
            in space are used if they are enabled. It decodes single tiles from now on.
    """
    vae.use_framewise_decoding = False
    temporal = vae.temporal_compression_ratio
    tiles = TimeTiles(
        frames=vae.tile_sample_min_num_frames // temporal + 1,
        stride=vae.tile_sample_stride_num_frames // temporal,
        temporal=temporal,
        blend=vae.tile_sample_min_num_frames - vae.tile_sample_stride_num_frames,
    )

    def decode_tile(latents: Tensor, first: bool) -> Tensor:
        video: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return video if first else video[:, :, 1:]

    return OverlapDecoder(tiles, decode_tile, next(vae.decoder.parameters()))
