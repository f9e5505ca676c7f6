"""Conditioning frames: what is known of a video before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, final

import torch
from torch import Tensor

from longtake.models.video_frames import VideoFrames
from longtake.task import FrameRange, Frames

_OF_PROMPT: Final = "prompt."
"""What the names of a start's prompt tensors begin with, among its states."""
_KEYFRAME: Final = "keyframe."
"""What the names of latents of later frames begin with, the latent frame's number behind it."""
_CHANNELS: Final = "channels."
"""What the names of later frames' channels begin with, the latent frame's number behind it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFrames:
    """Video frames that a model is given: first ones, and later ones that it knows how to take.

    Args:
        start: The first frames, as many as some latent frames decode to; to be taken front to
            back.
        original: The first one before it was cropped and resized, ``(h, w, 3)`` uint8 RGB; where
            ``spec.needs_start``.
        pictures: What a model with input channels is to show later, ``(height, width, 3)`` uint8
            RGB, by latent frame: the end is at the last one. Of the kinds in ``spec.native``.
        latent_frames: Length of the video; ``None`` for an endless one.
    """

    start: VideoFrames
    original: Tensor | None = None
    pictures: Mapping[int, Tensor] = field(default_factory=dict)
    latent_frames: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConditioningFrames:
    """Frames of a video that are known before it is made: its first ones, and any later ones.

    Every rank of a run has the same.

    Args:
        latents: Of the first frames, ``(1, C, F, H, W)`` fp32, as the sampler leaves finished
            frames; ``F`` may be 0. Where the model is told of them by ``channels``, it makes them
            itself; otherwise they are held in their place.
        channels: Of a model that has input channels for them (``spec.start`` is ``channels``):
            what they hold for the first latent frames of the video, ``(1, C', F', H, W)`` fp32.
            Later frames are all like the last one, so this does not grow with the video.
        prompts: What goes with every prompt, one row: an image encoder's states, say.
        keyframes: Latents ``(1, C, 1, H, W)`` of later frames, by latent frame: always held.
        channels_at: What the input channels hold for later frames that the model is told of,
            ``(1, C', 1, H, W)``, by latent frame.
    """

    latents: Tensor
    channels: Tensor | None = None
    prompts: dict[str, Tensor] = field(default_factory=dict)
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)
    channels_at: Mapping[int, Tensor] = field(default_factory=dict)

    def holds(self, frame: int) -> bool:
        """Whether a latent frame, absolute in the video, is held at what it is known to be."""
        return frame in self._first or frame in self.keyframes

    def held(self, block: FrameRange) -> tuple[Frames, Tensor] | None:
        """Return which frames of a block are held, and their latents; ``None``: none is.

        Args:
            block: Latent frames, absolute in the video.

        Returns:
            Their places in the block, in order, and ``(1, C, F, H, W)``.
        """
        frames = [frame for frame in block.each if self.holds(frame)]
        if not frames:
            return None
        parts = [
            self.latents[:, :, frame : frame + 1] if frame in self._first else self.keyframes[frame]
            for frame in frames
        ]
        return tuple(frame - block.start for frame in frames), torch.cat(parts, dim=2)

    def channels_of(self, frames: Frames) -> Tensor:
        """Return what the input channels for known frames hold: ``(1, C', F, H, W)``.

        Args:
            frames: Latent frames anywhere in the video.
        """
        assert self.channels is not None
        last = self.channels.shape[2] - 1
        index = torch.tensor(frames).clamp(min=0, max=last)
        found = self.channels[:, :, index.to(self.channels.device)]
        for place, frame in enumerate(frames):
            if frame in self.channels_at:
                found[:, :, place] = self.channels_at[frame][:, :, 0]
        return found

    def prompt_rows(self, rows: int) -> dict[str, Tensor]:
        """Return ``prompts`` for so many guidance branches: all see the same."""
        return {name: row.expand(rows, *row.shape[1:]) for name, row in self.prompts.items()}

    def to(self, device: torch.device) -> ConditioningFrames:
        """Return this with the latents and channels on a device; prompts stay where they are."""
        return replace(
            self,
            latents=self.latents.to(device),
            channels=None if self.channels is None else self.channels.to(device),
            keyframes={frame: one.to(device) for frame, one in self.keyframes.items()},
            channels_at={frame: one.to(device) for frame, one in self.channels_at.items()},
        )

    def states(self) -> dict[str, Tensor]:
        """Return this as named tensors, for another rank."""
        tensors = {_OF_PROMPT + name: tensor for name, tensor in self.prompts.items()}
        tensors |= {f"{_KEYFRAME}{frame}": one for frame, one in self.keyframes.items()}
        tensors |= {f"{_CHANNELS}{frame}": one for frame, one in self.channels_at.items()}
        tensors["latents"] = self.latents
        if self.channels is not None:
            tensors["channels"] = self.channels
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @classmethod
    def of_states(cls, states: dict[str, Tensor]) -> ConditioningFrames:
        """Return what ``states`` has made into named tensors."""
        return cls(
            latents=states["latents"],
            channels=states.get("channels"),
            prompts=_named(states, _OF_PROMPT),
            keyframes={int(name): one for name, one in _named(states, _KEYFRAME).items()},
            channels_at={int(name): one for name, one in _named(states, _CHANNELS).items()},
        )

    @property
    def _first(self) -> FrameRange:
        """The first frames, where they are held."""
        return FrameRange(0, self.latents.shape[2] if self.channels is None else 0)


def _named(states: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(kind): one for name, one in states.items() if name.startswith(kind)}
