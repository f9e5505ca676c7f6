"""Layers of the wavelet VAE, under the published weight names: all of them look back only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from longtake.models.open_sora_plan.wavelet_vae.stream import Stream, extended

Convolution = Callable[[int, int], nn.Module]
"""Makes a convolution of inputs and outputs that keeps the size."""


def run(layers: Iterable[Any], x: Tensor, stream: Stream) -> Tensor:
    """Run layers one after another on the next frames of a video ``(B, C, F, H, W)``."""
    for layer in layers:
        x = layer(x, stream)
    return x


@final
class CausalConv(nn.Module):
    """A convolution over time, height and width that sees no later frame.

    Args:
        inputs: Channels.
        outputs: Channels.
        kernel: Size along each of the three.
        stride: Along each of the three.
        padding: Zeros around a picture.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=(0, padding, padding))
        self._before, self._keep = kernel - 1, kernel - stride

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Convolve the next frames; before the first one of a video it is repeated."""
        if self._before:
            x = extended(self, x, stream, before=self._before, keep=self._keep)
        out: Tensor = self.conv(x)
        return out


@final
class FrameConv(nn.Conv2d):
    """A convolution on every frame by itself.

    Args:
        inputs: Channels.
        outputs: Channels.
        stride: Along height and width.
        padding: Zeros around a picture.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, padding: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, padding)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        """Convolve the frames ``(B, C, F, H, W)``."""
        return _of_frames(super().forward, x)


@final
class Norm(nn.Module):
    """A norm over channels at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C, F, H, W)``, normed."""
        out: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return out


@final
class ResBlock(nn.Module):
    """A residual block.

    Args:
        inputs: Channels.
        outputs: Channels.
        convolution: Which one.
    """

    def __init__(self, inputs: int, outputs: int, convolution: Convolution = CausalConv) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), convolution(inputs, outputs)
        self.norm2, self.conv2 = Norm(outputs), convolution(outputs, outputs)
        self.nin_shortcut = (
            None if inputs == outputs else CausalConv(inputs, outputs, kernel=1, padding=0)
        )

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Run the block on the next frames of a video."""
        h = self.conv1(F.silu(self.norm1(x)), stream)
        h = self.conv2(F.silu(self.norm2(h)), stream)
        out: Tensor = h + (x if self.nin_shortcut is None else self.nin_shortcut(x, stream))
        return out


@final
class FrameAttention(nn.Module):
    """Attention, of one head, within every frame by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.proj_out = (
            CausalConv(channels, channels, kernel=1, padding=0) for _ in range(4)
        )

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Run it on frames ``(B, C, F, H, W)``."""
        frames, height = x.shape[2], x.shape[3]
        normed = self.norm(x)
        q, k, v = (
            rearrange(project(normed, stream), "b c f h w -> (b f) 1 (h w) c")
            for project in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        out = rearrange(out, "(b f) 1 (h w) c -> b c f h w", f=frames, h=height)
        found: Tensor = x + self.proj_out(out, stream)
        return found


@final
class DownInSpace(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Run it on the next frames of a video."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)), stream)
        return out


@final
class DownInSpaceAndTime(nn.Module):
    """Halves height and width, and makes ``1 + n`` of ``1 + 2 n`` frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Run it on a video's first frame, or on its next pairs of frames."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)), stream)
        return out


@final
class UpInSpace(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Run it on the next frames of a video."""
        out: Tensor = self.conv(x.repeat_interleave(2, 3).repeat_interleave(2, 4), stream)
        return out


@final
class UpInSpaceAndTime(nn.Module):
    """Doubles height and width, and makes ``1 + 2 n`` of ``1 + n`` frames.

    The first frame is kept; each later one becomes two, a quarter of the way to the frame before
    and to the one after. So the second one waits for the next frame, or for the video's end.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Return what can be made with the video's next frames, at least one frame."""
        parts = [
            part for frame in torch.split(x, 1, dim=2) for part in self._between(frame, stream)
        ]
        return self._enlarged(torch.cat(parts, dim=2), stream)

    def finish(self, stream: Stream) -> Tensor:
        """Return what has waited: one frame, or none of a video of one frame."""
        return self._enlarged(stream[self], stream) if stream[self].shape[2] else stream[self]

    def _between(self, frame: Tensor, stream: Stream) -> list[Tensor]:
        past = stream.get(self)
        if past is None:  # the video's first frame stands for itself
            stream[self] = frame[:, :, :0]
            return [frame]
        stream[self] = frame
        if past.shape[2] == 0:  # nor does the second one lean towards it
            return [frame]
        return [0.75 * past + 0.25 * frame, 0.25 * past + 0.75 * frame]

    def _enlarged(self, x: Tensor, stream: Stream) -> Tensor:
        def enlarge(pictures: Tensor) -> Tensor:
            return F.interpolate(pictures, scale_factor=2, mode="bilinear")

        out: Tensor = self.conv(_of_frames(enlarge, x), stream)
        return out


def _of_frames(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of pictures ``(B, C, H, W)`` to every frame of ``(B, C, F, H, W)``."""
    frames = rearrange(x, "b c f h w -> (b f) c h w")
    return rearrange(function(frames), "(b f) c h w -> b c f h w", b=len(x))
