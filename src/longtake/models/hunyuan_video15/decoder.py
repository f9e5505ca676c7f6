"""HunyuanVideo 1.5's VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo15
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from longtake.models.base import VideoDecoder


@dataclass(frozen=True, slots=True)
class HunyuanVideo15DecoderState:
    """What is carried from one latent frame to the next; its size has a fixed limit.

    Args:
        seen: The last frames that each causal convolution has seen.
        kept: Keys and values of the latent frames that each attention looks back at.
    """

    seen: dict[nn.Module, Tensor] = field(default_factory=dict)
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


@final
class HunyuanVideo15Decoder(VideoDecoder[HunyuanVideo15DecoderState]):
    """Decode latent frame by latent frame, with what the causal modules have seen kept.

    All modules of the VAE look back only: its convolutions two frames far, its attention at all
    frames of the video. Here it looks back at as many latent frames as the clips that the model
    makes have. A video of at most that length equals ``AutoencoderKLHunyuanVideo15.decode`` of the
    whole; a longer one has no seams, and takes no more memory.

    diffusers' own forward knows no state, so its modules are called one by one.

    Args:
        vae: With its decoder; the encoder is not needed.
        window: Latent frames that the attention sees, the present one included.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo15, window: int) -> None:
        self._decoder: Any = vae.decoder
        self._scaling = vae.config.scaling_factor
        self._weight = next(vae.decoder.parameters())
        self._window = window

    @override
    def start(self) -> HunyuanVideo15DecoderState:
        return HunyuanVideo15DecoderState()

    @override
    def decode(self, state: HunyuanVideo15DecoderState, latents: Tensor) -> Iterator[Tensor]:
        z = latents.to(self._weight) / self._scaling
        for frame in z.split(1, dim=2):
            yield self._frame(frame, state)[0].transpose(0, 1).clamp(-1.0, 1.0)

    def _frame(self, z: Tensor, state: HunyuanVideo15DecoderState) -> Tensor:
        """Decode the next latent frame ``(1, C, 1, H, W)`` to video frames, channels first."""
        decoder, middle = self._decoder, self._decoder.mid_block
        x = _convolve(decoder.conv_in, z, state) + z.repeat_interleave(decoder.repeat, dim=1)
        x = _resnet(middle.resnets[0], x, state)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            x = _resnet(resnet, self._attend(attention, x, state), state)
        for part in decoder.up_blocks:
            for resnet in part.resnets:
                x = _resnet(resnet, x, state)
            for upsampler in part.upsamplers or ():
                x = _upsample(upsampler, x, state)
        return _convolve(decoder.conv_out, decoder.conv_act(decoder.norm_out(x)), state)

    def _attend(self, attention: Any, x: Tensor, state: HunyuanVideo15DecoderState) -> Tensor:
        """Attend from one frame to itself and to those before it."""
        height, width = x.shape[3:]
        normed = attention.norm(x)
        q, k, v = (
            rearrange(project(normed), "b c f h w -> b 1 (f h w) c")
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        if attention in state.kept:
            k, v = (
                torch.cat((past, new), dim=2)[:, :, -self._window * height * width :]
                for past, new in zip(state.kept[attention], (k, v), strict=True)
            )
        state.kept[attention] = k, v
        out = F.scaled_dot_product_attention(q, k, v)
        added: Tensor = attention.proj_out(rearrange(out, "b 1 (h w) c -> b c 1 h w", h=height))
        return x + added


def _convolve(convolution: Any, x: Tensor, state: HunyuanVideo15DecoderState) -> Tensor:
    """Convolve with the frames that came before; before the first one, it repeats."""
    *plane, back, _ = convolution.time_causal_padding
    past = state.seen.get(convolution, x[:, :, :1].expand(-1, -1, back, -1, -1))
    x = torch.cat((past, x), dim=2)
    state.seen[convolution] = x[:, :, -back:].clone()  # a view would keep all of x
    out: Tensor = convolution.conv(F.pad(x, (*plane, 0, 0), mode=convolution.pad_mode))
    return out


def _resnet(resnet: Any, x: Tensor, state: HunyuanVideo15DecoderState) -> Tensor:
    h = _convolve(resnet.conv1, resnet.nonlinearity(resnet.norm1(x)), state)
    h = _convolve(resnet.conv2, resnet.nonlinearity(resnet.norm2(h)), state)
    return h + (x if resnet.conv_shortcut is None else resnet.conv_shortcut(x))


def _upsample(upsampler: Any, x: Tensor, state: HunyuanVideo15DecoderState) -> Tensor:
    """Spread channels over space, and over time but for the first frame of the video."""
    first, repeats = upsampler.conv not in state.seen, upsampler.repeats
    h = _convolve(upsampler.conv, x, state)
    if not upsampler.add_temporal_upsample:
        return _spread(h, 1) + _spread(x.repeat_interleave(repeats, dim=1), 1)
    if not first:
        return _spread(h, 2) + _spread(x, 2).repeat_interleave(repeats, dim=1)
    h, shortcut = _spread(h, 1), _spread(x, 1)
    return h[:, : h.shape[1] // 2] + shortcut.repeat_interleave(repeats // 2, dim=1)


def _spread(x: Tensor, times: int) -> Tensor:
    return rearrange(x, "b (t p q c) f h w -> b c (f t) (h p) (w q)", t=times, p=2, q=2)
