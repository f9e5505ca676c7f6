"""Window forward, without a strategy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

from torch import Tensor

from longtake.models import (
    AnyBackbone,
    Attend,
    ConditioningFrames,
    Grid,
    LayerContext,
    PromptStates,
)
from longtake.models.layers.kernel import attend_with, attention_kernel, without_padding
from longtake.models.layers.levels import level_runs
from longtake.models.text import split_prompts
from longtake.strategies.exchange import in_groups, split


@final
class Run:
    """One window's forward in the parts that strategies call.

    Args:
        backbone: Whole or in part.
        grid: The window.
        timestep: Of the task, or of each latent frame of the window.
        prompts: One row per guidance branch.
        guidance: Guidance scale, for a model that embeds it.
        start: What is known of the video before it is made, if anything.
    """

    def __init__(
        self,
        backbone: AnyBackbone,
        grid: Grid,
        timestep: float | Sequence[float],
        prompts: PromptStates,
        guidance: float = 1.0,
        start: ConditioningFrames | None = None,
    ) -> None:
        positions = backbone.positions
        self._backbone, self._grid = backbone, grid
        self._tokens = len(grid.frames) * backbone.spec.tokens_per_frame(grid.height, grid.width)
        self._branches = len(split_prompts(prompts))
        step = self._step(timestep, guidance)
        self._context: LayerContext[Any, Any] = LayerContext(
            text=backbone.text_at(backbone.condition_text(prompts), step),
            step=step,
            rotary=None if positions is None else positions.table(grid),
            kernel=attention_kernel,
            start=start,
            text_tokens=backbone.spec.text_tokens,
        )
        self.padding = backbone.text_padding(self._context.text)
        kernels = [attention_kernel for _ in self.padding]
        self._attend = attend_with(without_padding(kernels, self.padding))

    def _step(self, timestep: float | Sequence[float], guidance: float) -> Any:
        if isinstance(timestep, float):
            return self._backbone.condition_step(timestep, guidance)
        per_frame = self._tokens // len(self._grid.frames)
        runs = level_runs(timestep, per_frame, range(self._tokens))
        steps = [self._backbone.condition_step(level, guidance) for level, _ in runs]
        return self._backbone.join_steps(steps, [count for _, count in runs])

    def embed(self, latents: Tensor) -> Tensor:
        """Embed; where all branches start alike, as a view: a layer must not write into it."""
        hidden = self._backbone.embed(latents, self._grid, self._context)
        return hidden.expand(self._branches, -1, -1)

    def attend(self, index: int, before: int = 0) -> Attend:
        """Return the self-attention of a layer.

        Args:
            index: Of the layer.
            before: How many keys will stand in front of the window's own.
        """
        groups = self._backbone.token_groups(index)
        frames = before * len(self._grid.frames) // self._tokens
        first = self._grid.positions[0]
        keys = (*range(first - frames, first), *self._grid.positions)
        own = self._backbone.own_kernel(index, self._grid, keys)
        if own is not None:
            return attend_with(own)
        if groups is None:
            return self._attend
        queries = range(before, before + self._tokens)
        members = split(groups, queries, [[range(queries.stop)]])
        return attend_with(in_groups([attention_kernel for _ in members], members))

    def layer(self, index: int, hidden: Tensor, attend: Attend | None = None) -> Tensor:
        """Run one layer."""
        return self._backbone.layer(index, hidden, self._context, attend or self.attend(index))

    def layers(self, hidden: Tensor, layers: Collection[int]) -> Tensor:
        """Run some layers."""
        for index in layers:
            hidden = self.layer(index, hidden)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Predict all frames of the window; text tokens behind them are left out."""
        return self._backbone.head(hidden[:, : self._tokens], self._grid, self._context)

    def predict(self, latents: Tensor) -> Tensor:
        """Run the whole model."""
        return self.head(self.layers(self.embed(latents), range(self._backbone.spec.layers)))
