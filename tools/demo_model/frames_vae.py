"""A fast, exactly equal forward of an ``AutoencoderKLWan`` that looks back only a little.

Wan's autoencoder is causal in time and handles a video in steps of four frames with caches. Almost
every convolution has three taps in time, which makes the receptive field long (tens of latent
frames) and training on short clips unstable: outside of what it saw it drifts. Here the older taps
of all convolutions are held at zero, but for those of the layers that change the frame rate
(``time_conv``), where the newest two (up) or all three (down) are used. The weights stay ordinary
``AutoencoderKLWan`` weights, while

- a latent sees 7 frames and a frame depends on 3 latents, so clips of 17 frames show all there is;
- all other layers work on single frames, so time can be folded into the batch: 2-D convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional as F

UP_TAPS = 2  # of 3: the frame itself and the one before


def zero_older_taps(vae: AutoencoderKLWan) -> None:
    """Sets to zero the taps in time that :func:`encode` and :func:`decode` leave out."""
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, nn.Conv3d) or module.kernel_size[0] == 1:
                continue
            if not name.endswith("time_conv"):
                module.weight[:, :, :-1] = 0.0
            elif name.startswith("decoder"):
                module.weight[:, :, :-UP_TAPS] = 0.0


def _conv(conv: Any, x: Tensor) -> Tensor:
    """A causal 3-D convolution's newest tap on single frames ``(N, C, H, W)``."""
    if isinstance(conv, nn.Identity):
        return x
    weight = conv.weight[:, :, -1]
    return F.conv2d(x, weight, conv.bias, padding=weight.shape[-1] // 2)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """``WanRMS_norm`` over channels, then SiLU, in the dtype of ``x``."""
    scale = torch.rsqrt(x.square().mean(dim=1, keepdim=True, dtype=torch.float32) + 1e-12)
    return F.silu(x * scale.to(x.dtype) * norm.gamma.view(-1, 1, 1).to(x.dtype))


def _resnet(block: Any, x: Tensor) -> Tensor:
    h = _conv(block.conv1, _norm(block.norm1, x))
    return _conv(block.conv2, _norm(block.norm2, h)) + _conv(block.conv_shortcut, x)


def _attention(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block(x.unsqueeze(2))
    return out.squeeze(2)


def _mid(block: Any, x: Tensor) -> Tensor:
    x = _resnet(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _resnet(resnet, _attention(attention, x))
    return x


def _slower(conv: Any, x: Tensor, batch: int) -> Tensor:
    """Halves the frame rate: the first frame as it is, then 3 frames to 1 in steps of 2."""
    y = _frames(x, batch)
    a, b, c = y[:, :-2:2], y[:, 1:-1:2], y[:, 2::2]
    new = F.conv2d(
        torch.cat([a, b, c], dim=2).flatten(0, 1),
        conv.weight[..., 0, 0].transpose(1, 2).flatten(1)[..., None, None],
        conv.bias,
    )
    return torch.cat([y[:, :1], _frames(new, batch)], dim=1).flatten(0, 1)


def _faster(conv: Any, x: Tensor, batch: int) -> Tensor:
    """Doubles the frame rate: the first frame as it is, two for every later one."""
    y = _frames(x, batch)
    first, rest = y[:, :1], y[:, 1:]
    before = torch.cat([torch.zeros_like(first), rest[:, :-1]], dim=1)
    weight = conv.weight[:, :, -UP_TAPS:, 0, 0].transpose(1, 2).flatten(1)[..., None, None]
    new = F.conv2d(torch.cat([before, rest], dim=2).flatten(0, 1), weight, conv.bias)
    new = new.reshape(batch, -1, *first.shape[2:])
    return torch.cat([first, new], dim=1).flatten(0, 1)


def _frames(x: Tensor, batch: int) -> Tensor:
    """``(B F, C, H, W)`` to ``(B, F, C, H, W)``."""
    return x.reshape(batch, -1, *x.shape[1:])


def _fold(x: Tensor) -> Tensor:
    """``(B, C, F, H, W)`` to frames ``(B F, C, H, W)``, channels last in memory."""
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def encode(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """What ``vae.encode`` gives, for a video of ``4 n + 1`` frames.

    Args:
        vae: Autoencoder whose older taps are zero (:func:`zero_older_taps`).
        video: Pixels from -1 to 1, ``(B, 3, F, H, W)``.

    Returns:
        Mean and logarithm of the variance of the latents, each ``(B, C, 1 + (F - 1) / 4, H / 8,
        W / 8)``.
    """
    batch, net = video.shape[0], vae.encoder
    x = _fold(video)
    if vae.config.patch_size is not None:
        # Wan's order within a patch is (channel, column, row)
        p = vae.config.patch_size
        n, c, h, w = x.shape
        x = x.view(n, c, h // p, p, w // p, p).permute(0, 1, 5, 3, 2, 4)
        x = x.reshape(n, c * p * p, h // p, w // p).contiguous(memory_format=torch.channels_last)
    x = _conv(net.conv_in, x)
    for layer in net.down_blocks:
        if hasattr(layer, "conv1"):
            x = _resnet(layer, x)
        else:
            x = layer.resample(x)
            if layer.mode == "downsample3d":
                x = _slower(layer.time_conv, x, batch)
    x = _conv(net.conv_out, _norm(net.norm_out, _mid(net.mid_block, x)))
    x = _frames(_conv(vae.quant_conv, x), batch).transpose(1, 2)
    mean, log_variance = x.chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """What ``vae.decode`` gives, without its clamp to -1 .. 1.

    Args:
        vae: Autoencoder whose older taps are zero (:func:`zero_older_taps`).
        latents: ``(B, C, F, H, W)``.

    Returns:
        Pixels, ``(B, 3, 1 + 4 (F - 1), 8 H, 8 W)``.
    """
    batch, net = latents.shape[0], vae.decoder
    x = _mid(net.mid_block, _conv(net.conv_in, _conv(vae.post_quant_conv, _fold(latents))))
    for block in net.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        if block.upsamplers is not None:
            up = block.upsamplers[0]
            if up.mode == "upsample3d":
                x = _faster(up.time_conv, x, batch)
            x = up.resample[1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
    x = _conv(net.conv_out, _norm(net.norm_out, x))
    if vae.config.patch_size is not None:
        p = vae.config.patch_size
        n, c, h, w = x.shape
        x = x.view(n, c // (p * p), p, p, h, w).permute(0, 1, 4, 3, 5, 2)
        x = x.reshape(n, c // (p * p), h * p, w * p)
    return _frames(x, batch).transpose(1, 2)
