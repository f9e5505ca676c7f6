"""Known frames: a block's sampler where some of the block's frames are given."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.samplers.base import BlockSampler, SamplerState
from longtake.task import Frames


@final
class KnownFrames(BlockSampler):
    """Steps a block, and keeps some of its frames at what they are known to be.

    The method of replacement, which needs no training: after each step the known frames are put
    back, with noise of the level that the others are at. At a full ``share`` what the model sees
    is like the clips it was trained on, but while a picture is decided, in the first steps, noise
    hides what is known; with less of it the others follow the known frames more closely. After
    the last step they are the known latents, exactly.

    Args:
        sampler: The block's own, which steps all frames.
        places: Which frames of the block are known, counted from its first one.
        clean: Their latents ``(1, C, F, H, W)``.
        noise: Their starting noise, of the same shape.
        share: Of the noise that the other frames have, from 0 to 1. 0, clean at every step, for a
            model whose timestep may differ per frame.
    """

    def __init__(
        self, sampler: BlockSampler, places: Frames, clean: Tensor, noise: Tensor, share: float
    ) -> None:
        self._sampler = sampler
        self._places = torch.tensor(places, device=clean.device)
        self._clean = clean
        self._noise = noise
        self._share = share

    def hold(self, latents: Tensor) -> Tensor:
        """Return a block's latents with the known frames as the next step is to see them.

        Args:
            latents: ``(1, C, F, H, W)`` fp32; not changed.
        """
        noised = self._sampler.noised(self._clean, self._noise)
        known = torch.lerp(self._clean, noised, self._share)
        return latents.index_copy(2, self._places, known)

    @override
    def step(self, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """Take the next step; the known frames of the result are known again."""
        return self.hold(self._sampler.step(prediction, latents, noise))

    @override
    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        return self._sampler.noised(clean, noise)

    @override
    def state(self) -> SamplerState:
        """Return the state of the block's own: what is known is known from the request."""
        return self._sampler.state()
