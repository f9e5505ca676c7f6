"""Decoding in tiles that overlap in time, for VAEs that cannot be decoded frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTiles:
    """How a video is cut along time.

    Args:
        frames: Latent frames of a tile.
        stride: Latent frames from the start of a tile to the start of the next one.
        temporal: Video frames per latent frame.
        blend: Video frames in which a tile fades into the next one.
        causal: Whether a tile's first latent frame is one video frame: such a tile overlaps the one
            before by a latent frame more than is blended. Otherwise all are ``temporal`` of them.
    """

    frames: int
    stride: int
    temporal: int
    blend: int
    causal: bool = True

    @property
    def seen(self) -> int:
        """Latent frames at the beginning of a later tile that the one before has decoded."""
        return 1 if self.causal else self.frames - self.stride


@dataclass(slots=True)
class OverlapState:
    """What is carried from one latent frame to the next; its size has a fixed limit.

    Args:
        waiting: Latent frames from the start of the next tile on.
        fading: The last video frames of the previous tile, which fade into the next one.
    """

    waiting: Tensor | None = None
    fading: Tensor | None = None


@final
class OverlapDecoder(VideoDecoder[OverlapState]):
    """Decode tile by tile, each as soon as its latents are there, and fade them into each other.

    Tiles begin at multiples of the stride, wherever blocks are cut, so the result does not depend
    on the cuts: it is bit-equal to diffusers' own temporal tiling of the whole video. What is
    held back and carried is at most one tile.

    Args:
        tiles: How a video is cut.
        decode_tile: Decodes a tile's latents ``(1, C, F, H, W)`` to ``(1, 3, frames, height,
            width)``. Its second argument tells whether the video begins with this tile. Where
            tiles are causal, it then gives ``1 + (F - 1) * temporal`` video frames, and one less
            otherwise; where they are not, always ``F * temporal``.
        like: A tensor on the device and of the dtype in which to decode.
    """

    def __init__(
        self,
        tiles: TimeTiles,
        decode_tile: Callable[[Tensor, bool], Tensor],
        like: Tensor,
    ) -> None:
        self._tiles = tiles
        self._decode_tile = decode_tile
        self._like = like

    @override
    def start(self) -> OverlapState:
        return OverlapState()

    @override
    def decode(self, state: OverlapState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._like)
        waiting = state.waiting
        state.waiting = latents if waiting is None else torch.cat((waiting, latents), dim=2)
        while state.waiting.shape[2] >= self._tiles.frames:
            yield _pictures(self._next(state, state.waiting))

    @override
    def finish(self, state: OverlapState) -> Iterator[Tensor]:
        waiting = state.waiting
        if waiting is not None and state.fading is None:  # shorter than a tile
            yield _pictures(self._decode_tile(waiting, True))
            return
        # What the tile before has decoded needs no tile of its own.
        while waiting is not None and waiting.shape[2] > self._tiles.seen:
            if not self._tiles.causal:  # the last one, with nothing to fade into
                assert state.fading is not None
                state.fading = fade(state.fading, self._decode_tile(waiting, False))
                break
            yield _pictures(self._next(state, waiting))
            waiting = state.waiting
        if state.fading is not None and not self._tiles.causal:
            yield _pictures(state.fading)

    def _next(self, state: OverlapState, waiting: Tensor) -> Tensor:
        """Decode the next tile; return its frames up to where it fades into the one after."""
        tiles, first = self._tiles, state.fading is None
        video = self._decode_tile(waiting[:, :, : tiles.frames], first)
        if state.fading is not None:
            video = fade(state.fading, video)
        state.waiting = waiting[:, :, tiles.stride :]
        state.fading = video[:, :, -tiles.blend :].clone()  # a view would keep the tile
        return video[:, :, : tiles.stride * tiles.temporal + (first and tiles.causal)]


def fade(before: Tensor, video: Tensor) -> Tensor:
    """Blend the first frames of ``video`` with ``before``, linearly, both ``(1, 3, F, H, W)``."""
    frames = min(before.shape[2], video.shape[2])
    weight = torch.arange(frames, dtype=torch.float64, device="cpu") / max(frames, 1)
    # Rounded once, as diffusers' Python numbers are.
    rising, falling = (part.view(-1, 1, 1).to(video) for part in (weight, 1 - weight))
    seam = before[:, :, before.shape[2] - frames :] * falling + video[:, :, :frames] * rising
    return torch.cat((seam, video[:, :, frames:]), dim=2)


def _pictures(video: Tensor) -> Tensor:
    """Return ``(frames, 3, height, width)`` in ``[-1, 1]``."""
    return video[0].transpose(0, 1).clamp(-1.0, 1.0)
