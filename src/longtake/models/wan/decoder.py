"""Wan's causal VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder


@dataclass(slots=True)
class WanDecoderState:
    """The last frames that each causal convolution has seen, and whether the video has begun."""

    convolutions: list[Tensor | str | None]
    begun: bool = False


@final
class WanDecoder(VideoDecoder[WanDecoderState]):
    """Decode latent frame by latent frame, with the causal convolutions' cache kept.

    ``AutoencoderKLWan.decode`` runs the very same calls, but throws the cache away at the end and
    holds every frame: decoding block by block here is the same, in constant memory. All of a
    video at once it is bit-equal; in blocks the first convolution gets fewer frames at a time,
    and its rounding may depend on their number.

    Args:
        vae: With its decoder; the encoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        weight = next(vae.decoder.parameters())
        self._mean, std = (
            weight.new_tensor(numbers).view(1, -1, 1, 1, 1)
            for numbers in (vae.config.latents_mean, vae.config.latents_std)
        )
        # diffusers multiplies the inverse and divides by it again: done alike, to be bit-equal.
        self._inverse_std = 1.0 / std

    @override
    def start(self) -> WanDecoderState:
        return WanDecoderState([None] * self._vae._cached_conv_counts["decoder"])

    @override
    def decode(self, state: WanDecoderState, latents: Tensor) -> Iterator[Tensor]:
        z = latents.to(self._mean) / self._inverse_std + self._mean
        for frame in self._vae.post_quant_conv(z).split(1, dim=2):
            out = self._vae.decoder(
                frame, feat_cache=state.convolutions, feat_idx=[0], first_chunk=not state.begun
            )
            state.begun = True
            if self._vae.config.patch_size is not None:
                out = unpatchify(out, patch_size=self._vae.config.patch_size)
            yield out.clamp(-1.0, 1.0)[0].transpose(0, 1)
