"""Task forward, in the three parts that a strategy may place on different ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

from torch import Tensor

from longtake.caches import FeatureStore, FeatureTable, Forward
from longtake.errors import ConfigurationError
from longtake.models import Condition, Grid, Kernel, LayerContext, Rotary
from longtake.models.layers.kernel import kernel_of
from longtake.models.layers.levels import CLEAN, level_runs
from longtake.models.layers.operands import checked
from longtake.strategies.exchange import TokenShare, overlap
from longtake.strategies.runtime.denoising import Denoising
from longtake.strategies.runtime.finite import FiniteWatch
from longtake.strategies.runtime.left_features import LeftFeatures
from longtake.strategies.runtime.perturbed_layer import run_layer
from longtake.strategies.runtime.reuse_decider import ReuseDecider
from longtake.strategies.runtime.reused_layers import Passing, ReusedLayers
from longtake.strategies.runtime.saved_features import SavedFeatures, features_state
from longtake.strategies.runtime.window_attention import WindowAttention
from longtake.task import Frames, Task


@final
class TaskForward:
    """Embeds, runs layers and predicts for the tasks of one request.

    Every rank has one per batch of guidance branches that it runs. Timestep embeddings are
    computed here once for all blocks, rotary tables once per window; what the text encoder said is
    projected once per prompt by ``Denoising.text``.

    Args:
        work: The request.
        branches: Guidance branches that run as one batch; ``None`` for all of them.
        share: The tokens and heads that are this rank's; ``None`` for all of them.
        decider: Decides with other first stages where layers are reused; ``None``: this rank has
            all branches and tokens, or a later stage.

    Attributes:
        reused: Whether the last task's layers were reused.
    """

    def __init__(
        self,
        work: Denoising,
        branches: range | None = None,
        share: TokenShare | None = None,
        decider: ReuseDecider | None = None,
    ) -> None:
        self._work = work
        self._share = share or TokenShare.whole(work.backbone.spec.heads)
        every = work.guidance.branches
        self._branches = range(len(every)) if branches is None else branches
        self._rows = [every[branch] for branch in self._branches]
        self.reused = False
        self._decider, self._reused_layers = decider, None
        if work.reuse is not None:
            place = "" if self._share.size == 1 else self._share.place
            self._reused_layers = ReusedLayers(work, self._branches, place)
        self._left = LeftFeatures(work, self._branches, self._share)
        self._steps: dict[float, Any] = {}
        self._tokens = work.backbone.spec.tokens_per_frame(work.height, work.width)
        self._rotary: dict[tuple[Frames, int], tuple[int, Rotary]] = {}
        self._kernel = kernel_of(work.attention)
        self._table = FeatureTable(self._share.ring_index)
        self.store = FeatureStore(work.kept)
        self._watch = FiniteWatch(work.communicator.run_rank)
        self._saved: SavedFeatures | None = None
        if work.resumed is not None:
            self._saved = SavedFeatures(work.resumed, self._branches, self._share, work.device)
            self._table = self._saved.table()

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return what is kept between two tasks: tensors by name, and the entries."""
        tensors, entries = features_state(self.store, self._table, self._branches, self._share)
        if self._reused_layers is not None:
            tensors |= self._reused_layers.state() | self._left.state()
        return tensors, entries

    def embed(self, forward: Forward, latents: Tensor) -> Tensor:
        """Return hidden states ``(B, S + L, M)`` of the window's latents ``(1, C, F, H, W)``.

        Embedding is so little work that each rank embeds all tokens and takes its own.
        """
        condition = self._condition(forward, forward.window.frames, range(self._total(forward)))
        grid = self._grid(forward, forward.window.frames)
        hidden = self._work.backbone.embed(latents, grid, condition)
        # Guidance branches start from the same latents: without text tokens, embedded once.
        mine = self._share.tokens(hidden.shape[1])
        return hidden[:, mine.start : mine.stop].expand(len(self._branches), -1, -1)

    def layers(self, forward: Forward, hidden: Tensor, layers: range, heads: int = 0) -> Tensor:
        """Run consecutive layers on hidden states ``(B, S + L, M)``.

        Args:
            forward: The task, and what it computes, reads and leaves.
            hidden: The hidden states.
            layers: Which layers.
            heads: How many of this rank's heads a decode rank attends.

        Raises:
            NumbersError: This or an earlier call has made numbers that are not finite.
        """
        if self._saved is not None:
            self._saved.restore(self.store, layers)
        backbone, total = self._work.backbone, self._total(forward)
        spec = backbone.spec
        text, mine = spec.text_tokens, self._share.tokens(total)
        condition = self._condition(forward, forward.window.frames, mine)
        context: LayerContext[Any, Any] = LayerContext(
            text=backbone.text_at(condition.text, condition.step),
            step=condition.step,
            rotary=self._rotary_of(forward),
            kernel=self._kernel,
            start=condition.start,
            text_tokens=len(overlap(mine, range(total - text, total))),
        )
        attention = WindowAttention(
            forward.window,
            self._tokens,
            self.store,
            self._table,
            self._attention_kernel(forward, len(layers), heads),
            self._share,
            _unmoved if backbone.positions is None else backbone.positions.rotate,
            text,
            backbone.text_padding(condition.text),
            hidden.device,
        )
        begin = layers.start
        if begin == 0:
            begin = -1
            self._watch.add(hidden)
        run = partial(self._layer, attention, context, forward)
        if self._reused_layers is None:
            for index in layers:
                hidden = run(index, hidden)
        else:
            hidden = self._reusing(self._reused_layers, attention, run, forward, hidden, layers)
        self._watch.end(forward.task, begin)
        return hidden

    def _layer(
        self,
        attention: WindowAttention,
        context: LayerContext[Any, Any],
        forward: Forward,
        index: int,
        hidden: Tensor,
    ) -> Tensor:
        backbone, spec = self._work.backbone, self._work.backbone.spec
        own = backbone.own_kernel(
            index, self._grid(forward, forward.window.frames), forward.window.key_positions
        )
        attend = attention.layer(index, backbone.token_groups(index), own)
        wanted = (*hidden.shape[:2], spec.heads, spec.head_dim)
        attend = checked(attend, f"layer {index} of {spec.name}", wanted)
        hidden = run_layer(backbone, index, hidden, context, attend, self._rows)
        self._watch.add(hidden)
        return hidden

    def _reusing(
        self,
        reused_layers: ReusedLayers,
        attention: WindowAttention,
        run: Callable[[int, Tensor], Tensor],
        forward: Forward,
        hidden: Tensor,
        layers: range,
    ) -> Tensor:
        """Run layers unless they are reused: between stages travels what is needed for it."""
        if layers.start:
            passing = Passing.unpacked(hidden)
        else:
            first = run(0, hidden)
            passing = Passing(first, first, self._decided(forward, hidden, first))
        self.reused, hidden = passing.reused, passing.hidden
        behind = range(max(1, layers.start), layers.stop)
        self._left.restore(behind)
        left = self._left.of(forward) if passing.reused else {}
        for index in behind:
            if passing.reused:
                attention.pass_by(index, left.get(index, []))
            else:
                hidden = run(index, hidden)
        passing = replace(passing, hidden=hidden)
        is_last = layers.stop == self._work.backbone.spec.layers
        if forward.task.runs:
            self._left.note(forward, {index: attention.left[index] for index in behind})
            hidden = reused_layers.finished(forward, passing) if is_last else hidden
        return hidden if is_last else passing.packed()

    def _decided(self, forward: Forward, before: Tensor, after: Tensor) -> bool:
        if not forward.task.runs:  # a pass over finished frames has no step before it
            return False
        if self._decider is None:
            raise ConfigurationError(
                "model.reuse is chosen, but the strategy runs tasks in a way of its own, without "
                "a ReuseDecider; choose one of longtake's strategies, or leave model.reuse out."
            )
        return self._decider.decide(forward, before, after)

    def predict(self, forward: Forward, hidden: Tensor) -> Tensor:
        """Return the branches' predictions of the task's own frames, ``(B, C, F, H, W)``.

        Where ranks share the tokens, all of them call it: the first one predicts, the others give
        it their tokens and get nothing.
        """
        own = forward.task.own
        first = forward.window.frames.index(own[0])
        wanted = range(first * self._tokens, (first + len(own)) * self._tokens)
        hidden = self._share.collect(hidden, self._total(forward), wanted)
        if self._share.index:
            return hidden
        condition = self._condition(forward, own, range(len(wanted)))
        return self._work.backbone.head(hidden, self._grid(forward, own), condition)

    def size(self, forward: Forward) -> tuple[int, ...]:
        """Return what tells micro-batchs whose attention costs differ apart."""
        window = forward.window
        return (len(self._branches), len(window.frames), len(window.reads))

    def _attention_kernel(self, forward: Forward, calls: int, heads: int) -> Kernel:
        """Return the kernel of self-attention of one micro-batch."""
        if self._work.co_attention is None:
            return self._kernel
        return self._work.co_attention.kernel(self._kernel, calls, self.size(forward), heads)

    def _condition(self, forward: Forward, frames: Frames, tokens: range) -> Condition[Any, Any]:
        """Return what some tokens of these frames are conditioned on."""
        return Condition(
            text=self._work.text(forward.task.prompt, self._branches),
            step=self._step(forward.task, frames, tokens),
            start=self._work.start,
        )

    def _step(self, task: Task, frames: Frames, tokens: range) -> Any:
        """Return the one noise level of these tokens, or several of them joined."""
        backbone = self._work.backbone
        if backbone.spec.timestep == "frame" or backbone.spec.start == "given":
            steps_of = {frame: run.step for run in task.runs for frame in run.frames}
            levels = [self._level(task, frame, steps_of.get(frame)) for frame in frames]
            runs = level_runs(levels, self._tokens, tokens)
            if len(runs) > 1:
                steps = [self._step_at(level) for level, _ in runs]
                return backbone.join_steps(steps, [count for _, count in runs])
            if runs:
                return self._step_at(runs[0][0])
        return self._step_at(self._timestep(task.step))

    def _step_at(self, timestep: float) -> Any:
        """Return a timestep's embedding and modulation, made once for all blocks."""
        if timestep not in self._steps:
            work = self._work
            made = work.backbone.condition_step(timestep, work.guidance.embedded)
            self._steps[timestep] = made
        return self._steps[timestep]

    def _level(self, task: Task, frame: int, step: int | None) -> float:
        """Return a latent frame's timestep: the schedule fixes it, or it was known before.

        Args:
            task: That forwards it.
            frame: Absolute.
            step: At which the task denoises it, if it does.
        """
        seen = task.seen(frame) if step is None else None
        if seen is not None and seen.noised:
            return seen.noised * self._work.backbone.spec.train_timesteps
        if self._work.start is not None and self._work.start.holds(frame):
            return CLEAN
        if self._work.backbone.spec.timestep == "clip":
            return self._timestep(task.step)
        if step is not None:
            return self._timestep(step)
        if seen is None:  # left by a pass over finished frames
            return CLEAN
        return self._timestep(seen.version if seen.told is None else seen.told)

    def _timestep(self, step: int) -> float:
        """Return the timestep of a step, or that of finished frames."""
        timesteps = self._work.sampler.timesteps
        return CLEAN if step == len(timesteps) else timesteps[step]

    def _total(self, forward: Forward) -> int:
        return len(forward.window.frames) * self._tokens + self._work.backbone.spec.text_tokens

    def _rotary_of(self, forward: Forward) -> Rotary | None:
        """Return this rank's rotary table; kept as long as every iteration asks for it."""
        positions, now = self._work.backbone.positions, forward.task.iteration
        if positions is None:
            return None
        grid = self._grid(forward, forward.window.frames)
        key = grid.positions, grid.origin
        _, table = self._rotary.get(key, (now, None))
        if table is None:
            cos, sin = positions.table(grid)
            mine = self._share.tokens(cos.shape[1])
            table = cos[:, mine.start : mine.stop], sin[:, mine.start : mine.stop]
            # A window that a block's next step does not have again is seldom asked for later.
            self._rotary = {k: v for k, v in self._rotary.items() if v[0] >= now - 1}
        self._rotary[key] = now, table
        return table

    def _grid(self, forward: Forward, frames: Frames) -> Grid:
        window = forward.window
        first = window.frames.index(frames[0])
        return Grid(
            frames=frames,
            positions=window.positions[first : first + len(frames)],
            height=self._work.height,
            width=self._work.width,
            origin=forward.origin,
        )


def _unmoved(keys: Tensor, shift: int) -> Tensor:
    raise ConfigurationError(
        f"kept keys are to move by {shift} latent frames, but the model's positions are learned; "
        f"choose a cache that leaves them where they are (moved_sinks: false)."
    )
