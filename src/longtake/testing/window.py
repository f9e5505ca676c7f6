"""One window's forward, without a strategy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

from torch import Tensor

from longtake.models import AnyBackbone, Attend, Grid, LayerContext, PromptStates
from longtake.models.kernel import attention_kernel, without_padding
from longtake.models.text import split_prompts


@final
class Run:
    """One window's forward in the parts that strategies call.

    Args:
        backbone: Whole or in part.
        grid: The window.
        timestep: Of the task.
        prompts: One row per guidance branch.
        guidance: Guidance scale, for a model that embeds it.
    """

    def __init__(
        self,
        backbone: AnyBackbone,
        grid: Grid,
        timestep: float,
        prompts: PromptStates,
        guidance: float = 1.0,
    ) -> None:
        positions = backbone.positions
        self._backbone, self._grid = backbone, grid
        self._branches = len(split_prompts(prompts))
        self._context: LayerContext[Any, Any] = LayerContext(
            text=backbone.condition_text(prompts),
            step=backbone.condition_step(timestep, guidance),
            rotary=None if positions is None else positions.table(grid),
            kernel=attention_kernel,
            text_tokens=backbone.spec.text_tokens,
        )
        self.padding = backbone.text_padding(self._context.text)
        self.kernel = without_padding([attention_kernel for _ in self.padding], self.padding)

    def embed(self, latents: Tensor) -> Tensor:
        """Embed; where all branches start alike, as a view: a layer must not write into it."""
        hidden = self._backbone.embed(latents, self._grid, self._context)
        return hidden.expand(self._branches, -1, -1)

    def layer(self, index: int, hidden: Tensor, attend: Attend | None = None) -> Tensor:
        """Run one layer."""
        return self._backbone.layer(index, hidden, self._context, attend or self.kernel)

    def layers(self, hidden: Tensor, layers: Collection[int]) -> Tensor:
        """Run some layers."""
        for index in layers:
            hidden = self.layer(index, hidden)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Predict all frames of the window; text tokens behind them are left out."""
        size = (self._grid.height, self._grid.width)
        tokens = len(self._grid.frames) * self._backbone.spec.tokens_per_frame(*size)
        return self._backbone.head(hidden[:, :tokens], self._grid, self._context)

    def predict(self, latents: Tensor) -> Tensor:
        """Run the whole model."""
        return self.head(self.layers(self.embed(latents), range(self._backbone.spec.layers)))
