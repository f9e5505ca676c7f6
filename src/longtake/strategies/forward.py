"""One task's forward, in the three parts that a strategy may place on different ranks."""

from __future__ import annotations

from functools import partial
from typing import Any, final

from torch import Tensor

from longtake.caches import FeatureStore, Window
from longtake.models import Grid, LayerContext, Rotary
from longtake.models.kernel import attention_kernel
from longtake.plan import FrameRange, Task
from longtake.strategies.attention import WindowAttention
from longtake.strategies.work import Denoising


@final
class TaskForward:
    """Embeds, runs layers and predicts for the tasks of one request.

    Every rank has one per batch of guidance branches that it runs. Timestep embeddings are
    computed here once for all blocks, rotary tables once per block; what the text encoder said is
    projected once per prompt by ``Denoising.text``.

    Args:
        work: The request.
        branches: Guidance branches that run as one batch; ``None`` for all of them.
    """

    def __init__(self, work: Denoising, branches: range | None = None) -> None:
        self._work = work
        self._branches = range(work.guidance.branches) if branches is None else branches
        self._steps = [work.backbone.condition_step(t) for t in work.sampler.timesteps]
        self._tokens = work.backbone.spec.tokens_per_frame(work.height, work.width)
        self._rotary: dict[int, tuple[FrameRange, Rotary]] = {}
        self._kernel = partial(attention_kernel, backend=work.attention)
        self.store = FeatureStore()

    def embed(self, task: Task, window: Window, latents: Tensor) -> Tensor:
        """Return hidden states ``(B, S, M)`` of the window's latents ``(1, C, F, H, W)``."""
        hidden = self._work.backbone.embed(
            latents, self._grid(window.frames), self._steps[task.step]
        )
        # Guidance branches start from the same latents: embedded once.
        return hidden.expand(len(self._branches), -1, -1)

    def layers(self, task: Task, window: Window, hidden: Tensor, layers: range) -> Tensor:
        """Run consecutive layers on hidden states ``(B, S, M)``."""
        backbone = self._work.backbone
        context: LayerContext[Any, Any] = LayerContext(
            text=self._work.text(task.frames, self._branches),
            step=self._steps[task.step],
            rotary=self._rotary_of(task, window),
            kernel=self._kernel,
        )
        attention = WindowAttention(window, self._tokens, self.store, self._kernel)
        for index in layers:
            hidden = backbone.layer(index, hidden, context, attention.layer(index))
        return hidden

    def predict(self, task: Task, window: Window, hidden: Tensor) -> Tensor:
        """Return the branches' predictions of the block's own frames, ``(B, C, F, H, W)``."""
        own = window.own.within(window.frames)
        hidden = hidden[:, own.start * self._tokens : own.stop * self._tokens]
        return self._work.backbone.head(hidden, self._grid(window.own), self._steps[task.step])

    def _rotary_of(self, task: Task, window: Window) -> Rotary | None:
        """Return the window's rotary table, made once per block and dropped with its last step."""
        positions = self._work.backbone.positions
        if positions is None:
            return None
        frames, table = self._rotary.pop(task.block, (None, None))
        if table is None or frames != window.frames:  # NoCache's window grows when a block enters
            table = positions.table(self._grid(window.frames))
        if not task.last_step:
            self._rotary[task.block] = (window.frames, table)
        return table

    def _grid(self, frames: FrameRange) -> Grid:
        return Grid(frames=frames, height=self._work.height, width=self._work.width)
