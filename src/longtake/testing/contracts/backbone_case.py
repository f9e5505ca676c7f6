"""Backbone case: what a suite is told of a backbone, and how it runs and compares it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar, Final

import pytest
import torch
from torch import Tensor

from longtake.models import AnyBackbone, ConditioningFrames, Grid, PromptStates
from longtake.models.text import join_prompts, split_prompts
from longtake.task import FrameRange
from longtake.testing.casting import cast_weights
from longtake.testing.differences import kind_of_difference
from longtake.testing.window import Run

FRAMES: Final = 3
"""Latent frames of the test's windows, each of one token along time."""
_DIMS: Final = {
    3: ("row", "token", "channel"),
    5: ("row", "channel", "frame", "line", "column"),
}
"""What the dims of hidden states and of predictions are called."""


class BackboneCase(ABC):
    """How a suite makes a backbone, and what it compares with."""

    height: ClassVar[int] = 4
    """Latent height."""
    width: ClassVar[int] = 6
    """Latent width."""
    timesteps: ClassVar[tuple[float, ...]] = (950.0, 120.0)
    """Noise levels to try; with two experts, one for each."""
    guidance: ClassVar[float] = 6.0
    """Guidance scale, for a model that embeds it."""
    earliest: ClassVar[int] = 0
    """From which latent frame on only the differences of rotary positions count."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference, relative to the largest number, where only the summing order differs."""

    @abstractmethod
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        """Return a new backbone of always the same weights, with only ``layers`` of it (or all)."""

    @abstractmethod
    def prompts(self) -> PromptStates:
        """Return text encoder states of two different prompts, of different length."""

    @abstractmethod
    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        """Return the model's own forward, ``(B, C, F, H, W)``, for frames 0 .. F - 1.

        The weights are those of ``load``, the guidance scale is ``self.guidance``. Use the
        model's published code where there is one.
        """

    def start(self) -> ConditioningFrames | None:
        """Return what a model with input channels for given frames needs, alike in all frames.

        By default ``None``: the model does without.
        """
        return None

    def load_in(self, dtype: torch.dtype) -> AnyBackbone:
        """Return a new backbone of the same weights in another dtype.

        By default ``load``, with every module in it cast but for what diffusers' classes keep in
        float32 (``_keep_in_fp32_modules``). Override it where weights are held in another way.
        """
        return cast_weights(self.load(), dtype)

    def layer_oracle(
        self, latents: Tensor, timestep: float, prompts: PromptStates
    ) -> Sequence[Tensor] | None:
        """Return the hidden states of the model's own forward, after each layer.

        With it a suite names the first layer that is wrong. ``hidden_states`` records them.

        Args:
            latents: As for ``oracle``.
            timestep: As for ``oracle``.
            prompts: As for ``oracle``.

        Returns:
            ``(B, S, M)`` for each layer, text tokens behind the video tokens or left out; by
            default ``None``: only the whole model is compared.
        """
        return None

    @pytest.fixture(autouse=True)
    def _no_grad(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    def _run(
        self,
        backbone: AnyBackbone,
        timestep: float | None = None,
        prompts: PromptStates | None = None,
        grid: Grid | None = None,
    ) -> Run:
        return Run(
            backbone,
            grid or self._grid(),
            self.timesteps[0] if timestep is None else timestep,
            prompts or self.prompts(),
            self.guidance,
            self.start(),
        )

    def _prompts(self, *rows: int) -> PromptStates:
        prompts = split_prompts(self.prompts())
        return join_prompts([prompts[row] for row in rows])

    def _grid(self, at: int = 0, stop: int | None = None, origin: int | None = None) -> Grid:
        frames = FrameRange(at, at + FRAMES if stop is None else stop)
        origin = at if origin is None else origin
        return Grid.of(frames, height=self.height, width=self.width, origin=origin)

    def _tokens(self, frames: int) -> int:
        return frames * self.load(()).spec.tokens_per_frame(self.height, self.width)

    def _latents(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        channels = self.load(()).spec.channels
        return torch.randn(1, channels, FRAMES, self.height, self.width, generator=generator)

    def _assert_close(
        self, found: Tensor, expected: Tensor, what: str, factor: float = 1.0
    ) -> None:
        assert found.shape == expected.shape, f"{what}: {found.shape}, not {expected.shape}"
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        assert difference <= factor * self.tolerance, (
            f"{what}: {difference:.1e} (relative) apart, "
            f"{kind_of_difference(found, expected, _DIMS[found.dim()])}"
        )
