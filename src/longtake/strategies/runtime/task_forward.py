"""Task forward, in the three parts that a strategy may place on different ranks."""

from __future__ import annotations

from functools import partial
from typing import Any, final

from torch import Tensor

from longtake.caches import FeatureKey, FeatureStore, Window
from longtake.models import Condition, Grid, Kernel, LayerContext, Rotary
from longtake.models.layers.kernel import attention_kernel
from longtake.models.layers.levels import CLEAN, level_runs
from longtake.strategies.exchange import TokenShare, overlap
from longtake.strategies.runtime.denoising import Denoising
from longtake.strategies.runtime.window_attention import WindowAttention
from longtake.task import FrameRange, Task


@final
class TaskForward:
    """Embeds, runs layers and predicts for the tasks of one request.

    Every rank has one per batch of guidance branches that it runs. Timestep embeddings are
    computed here once for all blocks, rotary tables once per block; what the text encoder said is
    projected once per prompt by ``Denoising.text``.

    Args:
        work: The request.
        branches: Guidance branches that run as one batch; ``None`` for all of them.
        share: The tokens and heads that are this rank's; ``None`` for all of them.
    """

    def __init__(
        self, work: Denoising, branches: range | None = None, share: TokenShare | None = None
    ) -> None:
        self._work = work
        self._share = share or TokenShare.whole(work.backbone.spec.heads)
        self._held: dict[FeatureKey, list[int]] = {}
        self._branches = range(work.guidance.branches) if branches is None else branches
        clean = (CLEAN,) if work.backbone.spec.timestep == "frame" else ()
        self._steps = {
            timestep: work.backbone.condition_step(timestep, work.guidance.embedded)
            for timestep in (*work.sampler.timesteps, *clean)
        }
        self._tokens = work.backbone.spec.tokens_per_frame(work.height, work.width)
        self._rotary: dict[int, tuple[Grid, Rotary]] = {}
        self._kernel = partial(attention_kernel, backend=work.attention)
        self.store = FeatureStore()

    def embed(self, task: Task, window: Window, latents: Tensor) -> Tensor:
        """Return hidden states ``(B, S + L, M)`` of the window's latents ``(1, C, F, H, W)``.

        Embedding is so little work that each rank embeds all tokens and takes its own.
        """
        condition = self._condition(task, window.frames, range(self._total(window)))
        hidden = self._work.backbone.embed(latents, self._grid(task, window.frames), condition)
        # Guidance branches start from the same latents: without text tokens, embedded once.
        mine = self._share.tokens(hidden.shape[1])
        return hidden[:, mine.start : mine.stop].expand(len(self._branches), -1, -1)

    def layers(
        self, task: Task, window: Window, hidden: Tensor, layers: range, heads: int = 0
    ) -> Tensor:
        """Run consecutive layers on hidden states ``(B, S + L, M)``.

        Args:
            task: Which one.
            window: What it computes, reads and leaves.
            hidden: The hidden states.
            layers: Which layers.
            heads: How many of this rank's heads a decode rank attends.
        """
        backbone, total = self._work.backbone, self._total(window)
        text, mine = backbone.spec.text_tokens, self._share.tokens(total)
        condition = self._condition(task, window.frames, mine)
        context: LayerContext[Any, Any] = LayerContext(
            text=condition.text,
            step=condition.step,
            rotary=self._rotary_of(task, window),
            kernel=self._kernel,
            start=condition.start,
            text_tokens=len(overlap(mine, range(total - text, total))),
        )
        attention = WindowAttention(
            window,
            self._tokens,
            self.store,
            self._attention_kernel(task, window, len(layers), heads),
            self._share,
            self._held,
            text,
            backbone.text_padding(condition.text),
            hidden.device,
        )
        for index in layers:
            attend = attention.layer(index, backbone.token_groups(index))
            hidden = backbone.layer(index, hidden, context, attend)
        return hidden

    def predict(self, task: Task, window: Window, hidden: Tensor) -> Tensor:
        """Return the branches' predictions of the block's own frames, ``(B, C, F, H, W)``.

        Where ranks share the tokens, all of them call it: the first one predicts, the others give
        it their tokens and get nothing.
        """
        own = window.own.within(window.frames)
        wanted = range(own.start * self._tokens, own.stop * self._tokens)
        hidden = self._share.collect(hidden, self._total(window), wanted)
        if self._share.index:
            return hidden
        condition = self._condition(task, window.own, range(len(wanted)))
        return self._work.backbone.head(hidden, self._grid(task, window.own), condition)

    def size(self, task: Task, window: Window) -> tuple[int, ...]:
        """Return what tells micro-batchs whose attention costs differ apart."""
        return (len(self._branches), len(window.frames), window.context_frames(task))

    def _attention_kernel(self, task: Task, window: Window, calls: int, heads: int) -> Kernel:
        """Return the kernel of self-attention of one micro-batch."""
        if self._work.co_attention is None:
            return self._kernel
        return self._work.co_attention.kernel(self._kernel, calls, self.size(task, window), heads)

    def _condition(self, task: Task, frames: FrameRange, tokens: range) -> Condition[Any, Any]:
        """Return what some tokens of these frames are conditioned on."""
        return Condition(
            text=self._work.text(task.frames, self._branches),
            step=self._step(task, frames, tokens),
            start=self._work.start,
        )

    def _step(self, task: Task, frames: FrameRange, tokens: range) -> Any:
        """Return the one noise level of these tokens, or several of them joined."""
        backbone, timesteps = self._work.backbone, self._work.sampler.timesteps
        if backbone.spec.timestep == "frame":
            levels = [self._level(task, frame) for frame in range(frames.start, frames.stop)]
            runs = level_runs(levels, self._tokens, tokens)
            if len(runs) > 1:
                steps = [self._steps[level] for level, _ in runs]
                return backbone.join_steps(steps, [count for _, count in runs])
            if runs:
                return self._steps[runs[0][0]]
        return self._steps[timesteps[task.step]]

    def _level(self, task: Task, frame: int) -> float:
        """Return a latent frame's timestep: the schedule fixes it, or it was known before."""
        timesteps, done = self._work.sampler.timesteps, task.steps_done(frame)
        known = self._work.start is not None and frame in self._work.start.frames
        return CLEAN if known or done == len(timesteps) else timesteps[done]

    def _total(self, window: Window) -> int:
        return len(window.frames) * self._tokens + self._work.backbone.spec.text_tokens

    def _rotary_of(self, task: Task, window: Window) -> Rotary | None:
        """Return this rank's rotary table, made once per block and dropped with its last step."""
        positions = self._work.backbone.positions
        if positions is None:
            return None
        grid = self._grid(task, window.frames)
        made_for, table = self._rotary.pop(task.block, (None, None))
        if table is None or made_for != grid:  # NoCache's window grows when a block enters
            cos, sin = positions.table(grid)
            mine = self._share.tokens(cos.shape[1])
            table = cos[:, mine.start : mine.stop], sin[:, mine.start : mine.stop]
        if not task.last_step:
            self._rotary[task.block] = (grid, table)
        return table

    def _grid(self, task: Task, frames: FrameRange) -> Grid:
        # The same origin under every cache, whether the frames before are recomputed or not.
        first = task.frames if task.before is None else task.before.frames
        return Grid(
            frames=frames, height=self._work.height, width=self._work.width, origin=first.start
        )
