"""Block queue: the latents and sampler states of the blocks in flight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from longtake.caches import Forward
from longtake.models import BlockSampler
from longtake.strategies.runtime.denoising import Denoising
from longtake.strategies.runtime.finite import check_step
from longtake.strategies.runtime.saved_block import SavedBlock
from longtake.task import Enter, FrameRange, Frames, Run, Task, spans


@dataclass(slots=True)
class _Block:
    """A block's latents as they stand, and what windows of its step have predicted so far.

    ``drawn`` is the number of its noise among those of the noise source, if it is from there.
    """

    frames: FrameRange
    latents: Tensor
    sampler: BlockSampler
    drawn: int | None
    predicted: Tensor | None = None
    weight: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Span:
    """Finished frames that are still forwarded."""

    frames: FrameRange
    latents: Tensor


@final
class BlockQueue:
    """Holds what a checkpoint of the queue would hold, and nothing that grows with the video.

    A block is in it from the task on with which it enters; when it is finished, only the frames
    stay that later windows forward.

    Args:
        work: The request.
    """

    def __init__(self, work: Denoising) -> None:
        self._work = work
        self._blocks: dict[int, _Block] = {}
        self._finished: list[_Span] = []
        self._drawn = 0
        if work.resumed is not None:
            self._restore(work.resumed.facts["queue"], work.resumed.tensors)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what has to be kept of the queue between two tasks: tensors by name, and facts."""
        tensors: dict[str, Tensor] = {}
        blocks = []
        for number, block in self._blocks.items():
            saved = SavedBlock(
                number, block.frames, block.drawn, block.latents, block.predicted, block.weight
            )
            blocks.append(saved.state(block.sampler.state(), tensors))
        for number, span in enumerate(self._finished):
            tensors[f"finished/{number}"] = span.latents
        finished = [[span.frames.start, span.frames.stop] for span in self._finished]
        return tensors, {"drawn": self._drawn, "blocks": blocks, "finished": finished}

    def _restore(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Be the queue that once gave these tensors and facts."""
        device = self._work.device
        saved = [SavedBlock.read(one, tensors, device) for one in facts["blocks"]]
        wanted = {block.drawn for block, _ in saved}
        noise = {}
        for number in range(facts["drawn"]):  # a source is read in order
            drawn = next(self._work.noise)
            if number in wanted:
                noise[number] = drawn.to(device)
        self._drawn = facts["drawn"]
        for block, state in saved:
            own = None if block.drawn is None else noise[block.drawn]
            self._blocks[block.number] = _Block(
                block.frames,
                block.latents,
                self._work.go_on(block.frames, own, state),
                block.drawn,
                block.predicted,
                block.weight,
            )
        for number, (start, stop) in enumerate(facts["finished"]):
            latents = tensors[f"finished/{number}"].to(device)
            self._finished.append(_Span(FrameRange(start, stop), latents))

    def latents(self, forward: Forward) -> Tensor:
        """Return the latents ``(1, C, F, H, W)`` of a task's window, as they stand now."""
        task = forward.task
        for enter in task.enters:
            self._enter(enter, task.steps)
        parts = []
        noised = {seen.frames: seen.noised for seen in task.sees if seen.noised}
        for span, latents in self._spans(forward.window.frames):
            for frames, share in noised.items():
                if span.overlaps(frames):
                    latents = self._mixed(latents, span, share, forward)
            parts.append(latents)
        self._forget(forward)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def step(self, forward: Forward, prediction: Tensor) -> Iterator[tuple[Run, Tensor]]:
        """Take all sampler steps of a task; yield the blocks of the video that are finished then.

        Args:
            forward: The task with its window.
            prediction: Of its own frames, after guidance, ``(1, C, F, H, W)``.
        """
        for run in forward.task.runs:
            if run.weights is not None:
                self.fuse(forward, run, prediction)
            finished = self.advance(forward, run, prediction) if run.advances else None
            if finished is not None and run.block >= 0:
                yield run, finished

    def fuse(self, forward: Forward, run: Run, prediction: Tensor) -> None:
        """Add the prediction of one of several windows to those of its block's step.

        Args:
            forward: The task with its window.
            run: What it has denoised of the block; with weights.
            prediction: Of all the task's own frames, after guidance, ``(1, C, F, H, W)``.
        """
        assert run.weights is not None
        prediction = _part(forward.task, run, prediction)
        block = self._blocks[run.block]
        weights = torch.tensor(run.weights, dtype=torch.float32, device=prediction.device)
        index = torch.tensor(
            [frame - block.frames.start for frame in run.frames], device=prediction.device
        )
        if block.predicted is None or block.weight is None:
            block.predicted = torch.zeros_like(block.latents)
            block.weight = weights.new_zeros(len(block.frames))
        weighted = prediction.float() * weights[:, None, None]
        block.predicted.index_add_(2, index, weighted)
        block.weight.index_add_(0, index, weights)

    def advance(self, forward: Forward, run: Run, prediction: Tensor) -> Tensor | None:
        """Take a block's sampler step; return its latents when it was the last one.

        Args:
            forward: The task with its window.
            run: What it has denoised of the block.
            prediction: Of all the task's own frames, after guidance, ``(1, C, F, H, W)``; not used
                where windows have been added.

        Raises:
            NumbersError: The latents are not finite then.
        """
        block = self._blocks[run.block]
        if run.weights is None:
            prediction = _part(forward.task, run, prediction)
        else:
            assert block.predicted is not None
            assert block.weight is not None
            prediction = block.predicted / block.weight[:, None, None]
            block.predicted = block.weight = None
        noise = self._work.noise_of(run.block, run.step, len(block.frames))
        # Never in place: a multi-step sampler keeps the tensor that it was given.
        block.latents = block.sampler.step(prediction, block.latents, noise)
        rank = self._work.communicator.run_rank
        check_step(rank, forward.task, block.latents, last=run.last_step)
        if not run.last_step:
            return None
        del self._blocks[run.block]
        self._finished.append(_Span(block.frames, block.latents))
        self._forget(forward)
        return block.latents

    def _forget(self, forward: Forward) -> None:
        """Keep of the finished frames those that later windows forward."""
        kept = []
        for span in self._finished:
            for wanted in forward.window.latents:
                start = max(span.frames.start, wanted.start)
                stop = min(span.frames.stop, wanted.stop)
                if start >= stop:
                    continue
                frames = FrameRange(start, stop)
                if frames == span.frames:
                    kept.append(span)
                else:
                    part = span.latents[:, :, frames.within(span.frames)].clone()
                    kept.append(_Span(frames, part))
        self._finished = kept

    def _enter(self, enter: Enter, steps: int) -> None:
        """Put a block into the queue, at the level at which it comes in."""
        if enter.source is None and enter.version == steps:
            self._finished.append(_Span(enter.frames, self._work.known(len(enter.frames))))
            return
        noise = self._work.noise_for(enter)
        drawn = self._drawn if enter.block >= 0 else None
        self._drawn += enter.block >= 0
        if enter.source is None:
            latents, sampler = self._work.begin(enter.frames, noise)
        else:
            parts = [latents for _, latents in self._spans(enter.source)]
            level = enter.version if enter.level is None else enter.level
            latents, sampler = self._work.begin_at(level, torch.cat(parts, dim=2), noise)
            if enter.version == steps:
                self._finished.append(_Span(enter.frames, latents))
                return
        self._blocks[enter.block] = _Block(enter.frames, latents, sampler, drawn)

    def _spans(self, frames: Frames) -> Iterator[tuple[FrameRange, Tensor]]:
        """Yield frames as runs of consecutive ones that stand together, with their latents."""
        held = [(block.frames, block.latents) for block in self._blocks.values()]
        held += [(one.frames, one.latents) for one in self._finished]
        for span in spans(frames):
            start = span.start
            while start < span.stop:
                home, latents = next(one for one in held if start in one[0])
                part = FrameRange(start, min(span.stop, home.stop))
                yield part, latents[:, :, part.within(home)]
                start = part.stop

    def _mixed(self, latents: Tensor, span: FrameRange, share: float, forward: Forward) -> Tensor:
        """Return finished frames with a share of fresh noise in them."""
        noise = self._work.mixing_noise(forward.task.index, span)
        return latents * (1 - share) + noise * share


def _part(task: Task, run: Run, prediction: Tensor) -> Tensor:
    """Return the prediction of a run's frames out of that of all the task's own."""
    if len(task.runs) == 1:
        return prediction
    first = 0
    for one in task.runs:
        if one is run:
            break
        first += len(one.frames)
    return prediction[:, :, first : first + len(run.frames)]
