"""The configuration of the wavelet VAE, as its ``config.json`` gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self, final

from longtake.errors import ModelError

_FIXED: Final = {
    "use_attention": True,
    "attention_type": "AttnBlock3DFix",
    "l1_dowmsample_block": "Downsample",
    "l1_downsample_wavelet": "HaarWaveletTransform2D",
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l1_upsample_block": "Upsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform2D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}
"""Settings that the VAE of version 1.3 has one value for; the names are the published ones."""
_NORMS: Final = ("layernorm", "aelayernorm")
"""Names of the norm over channels at every position."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WaveletVaeConfig:
    """Sizes of a ``WFVAEModel``; names and defaults are the published ones.

    Args:
        latent_dim: Latent channels ``C``.
        base_channels: Channels of the widest pictures.
        encoder_num_resblocks: Residual blocks of each of the encoder's levels.
        encoder_energy_flow_hidden_size: Channels that a level's wavelets bring into the encoder.
        decoder_num_resblocks: Residual blocks of each of the decoder's levels.
        decoder_energy_flow_hidden_size: Channels that leave the decoder for a level's wavelets.
        connect_res_layer_num: Residual blocks between those channels and the wavelets.
        norm_type: Of the norms: over channels alone, or no stream can be decoded.
        t_interpolation: How frames are made between frames.
        scale: What latents are multiplied by, per channel.
        shift: What is taken from them before, per channel.
    """

    latent_dim: int = 8
    base_channels: int = 128
    encoder_num_resblocks: int = 2
    encoder_energy_flow_hidden_size: int = 64
    decoder_num_resblocks: int = 2
    decoder_energy_flow_hidden_size: int = 128
    connect_res_layer_num: int = 1
    norm_type: str = "groupnorm"
    t_interpolation: str = "nearest"
    scale: tuple[float, ...] = (0.18215,) * 8
    shift: tuple[float, ...] = (0.0,) * 8

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Read a ``config.json``.

        Raises:
            ModelError: A setting is one that the VAE of version 1.3 does not have.
        """
        for key, value in _FIXED.items():
            if config.get(key, value) != value:
                raise ModelError(
                    f"the VAE's {key} is {config[key]!r}, but Open-Sora-Plan 1.3's wavelet VAE has "
                    f"{value!r}, and longtake knows no other one."
                )
        given = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        for key in ("scale", "shift"):
            if key in given:
                given[key] = tuple(map(float, given[key]))
        found = cls(**given)
        if found.norm_type not in _NORMS:
            raise ModelError(
                f"the VAE's norm_type is {found.norm_type!r}, which mixes all frames of a video: "
                f"none could be decoded before the last one is there; Open-Sora-Plan 1.3's "
                f"own VAE has {_NORMS[0]!r}."
            )
        if found.t_interpolation != "trilinear":
            raise ModelError(
                f"the VAE's t_interpolation is {found.t_interpolation!r}, but Open-Sora-Plan 1.3's "
                f"own VAE has 'trilinear', and longtake knows no other one."
            )
        for key, numbers in (("scale", found.scale), ("shift", found.shift)):
            if len(numbers) != found.latent_dim:
                raise ModelError(
                    f"the VAE's {key} has {len(numbers)} numbers for {found.latent_dim} latent "
                    f"channels (latent_dim); one is needed for each."
                )
        return found
