"""One task's forward, in the three parts that a strategy may place on different ranks."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from longtake.caches import FeatureStore, Window
from longtake.models import Grid, LayerContext
from longtake.plan import FrameRange, Task
from longtake.strategies.attention import WindowAttention
from longtake.strategies.work import Denoising


@final
class TaskForward:
    """Embeds, runs layers and predicts for the tasks of one request.

    Every rank has one. Timestep embeddings are computed here once for all blocks; what the text
    encoder said is projected once per prompt by ``Denoising.text``.

    Args:
        work: The request.
    """

    def __init__(self, work: Denoising) -> None:
        self._work = work
        self._steps = [work.backbone.condition_step(t) for t in work.sampler.timesteps]
        self._tokens = work.backbone.spec.tokens_per_frame(work.height, work.width)
        self.store = FeatureStore()

    def embed(self, task: Task, window: Window, latents: Tensor) -> Tensor:
        """Return hidden states ``(branches, S, M)`` of the window's latents ``(1, C, F, H, W)``."""
        hidden = self._work.backbone.embed(
            latents, self._grid(window.frames), self._steps[task.step]
        )
        # Guidance branches start from the same latents: embedded once.
        return hidden.expand(self._work.guidance.branches, -1, -1)

    def layers(self, task: Task, window: Window, hidden: Tensor, layers: range) -> Tensor:
        """Run consecutive layers on hidden states ``(branches, S, M)``."""
        backbone, grid = self._work.backbone, self._grid(window.frames)
        positions = backbone.positions
        context: LayerContext[Any, Any] = LayerContext(
            text=self._work.text(task.frames),
            step=self._steps[task.step],
            rotary=None if positions is None else positions.table(grid),
        )
        attention = WindowAttention(window, self._tokens, self.store, self._work.attention)
        for index in layers:
            hidden = backbone.layer(index, hidden, context, attention.layer(index))
        return hidden

    def head(self, task: Task, window: Window, hidden: Tensor) -> Tensor:
        """Return the prediction of the block's own frames after guidance, ``(1, C, F, H, W)``."""
        own = window.own.within(window.frames)
        hidden = hidden[:, own.start * self._tokens : own.stop * self._tokens]
        step = self._steps[task.step]
        prediction = self._work.backbone.head(hidden, self._grid(window.own), step)
        timestep = self._work.sampler.timesteps[task.step]
        return self._work.guidance.combine(prediction, self._work.backbone.spec.expert(timestep))

    def _grid(self, frames: FrameRange) -> Grid:
        return Grid(frames=frames, height=self._work.height, width=self._work.width)
