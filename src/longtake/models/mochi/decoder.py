"""Mochi's causal VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from diffusers import AutoencoderKLMochi
from diffusers.models.autoencoders.autoencoder_kl_mochi import MochiResnetBlock3D
from torch import Tensor, nn
from typing_extensions import override

from longtake.models.base import VideoDecoder


class _StreamedConvolution(nn.Module):
    """A causal convolution that goes on where it stopped.

    diffusers' own repeats the first frame of whatever it is given, and the picture's edges. This
    one repeats the video's first frame only, and gives back the last frames that it has seen.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.conv = causal.conv
        self._frames = causal.time_pad
        self._edges = (causal.width_pad, causal.width_pad, causal.height_pad, causal.height_pad)

    @override
    def forward(self, frames: Tensor, conv_cache: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = frames[:, :, :1].expand(-1, -1, self._frames, -1, -1)
        frames = torch.cat((seen if conv_cache is None else conv_cache, frames), dim=2)
        padded = nn.functional.pad(frames, (*self._edges, 0, 0), mode="replicate")
        return self.conv(padded), frames[:, :, -self._frames :].clone()


@dataclass(slots=True)
class MochiDecoderState:
    """The last frames that each causal convolution has seen; empty before the video begins."""

    convolutions: dict[str, Any] = field(default_factory=dict)


@final
class MochiDecoder(VideoDecoder[MochiDecoderState]):
    """Decode latent frame by latent frame, with what causal convolutions have seen kept.

    Everything else in the decoder, its norms included, takes frames one by one, so this is what
    ``AutoencoderKLMochi.decode`` makes of the whole video, in constant memory. (Its
    ``_enable_framewise_decoding`` pads with zeros instead, which the model was not trained with.)

    Args:
        vae: With its decoder, whose convolutions are replaced; the encoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLMochi) -> None:
        self._decoder, weight = vae.decoder, next(vae.decoder.parameters())
        for module in list(vae.decoder.modules()):
            if isinstance(module, MochiResnetBlock3D):
                module.conv1 = _StreamedConvolution(module.conv1)
                module.conv2 = _StreamedConvolution(module.conv2)
        self._dropped = vae.temporal_compression_ratio - 1
        self._mean, self._std = (
            weight.new_tensor(numbers).view(1, -1, 1, 1, 1)
            for numbers in (vae.config.latents_mean, vae.config.latents_std)
        )
        self._scaling = vae.config.scaling_factor

    @override
    def start(self) -> MochiDecoderState:
        return MochiDecoderState()

    @override
    def decode(self, state: MochiDecoderState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._mean)
        for frame in (latents * self._std / self._scaling + self._mean).split(1, dim=2):
            dropped = 0 if state.convolutions else self._dropped
            video, state.convolutions = self._decoder(frame, conv_cache=state.convolutions)
            yield video[0].transpose(0, 1)[dropped:].clamp(-1.0, 1.0)
