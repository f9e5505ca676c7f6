"""Reused layers of one micro-batch: hidden states on their way past them, and what they added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from longtake.caches import Forward
from longtake.strategies.runtime.denoising import Denoising
from longtake.strategies.runtime.reuse_decider import Part, is_over, name_of, part_of
from longtake.task import Task


@dataclass(frozen=True, slots=True)
class Passing:
    """Hidden states between two layers, and what stages behind have to know.

    Args:
        hidden: ``(B, S, M)``.
        first: Hidden states after the first layer, of the same shape.
        reused: Whether the layers are passed by.
    """

    hidden: Tensor
    first: Tensor
    reused: bool

    def packed(self) -> Tensor:
        """Return all of it as one message, ``(2 B, S + 1, M)``."""
        both = torch.cat([self.hidden, self.first])
        word = both.new_full((len(both), 1, both.shape[2]), float(self.reused))
        return torch.cat([both, word], dim=1)

    @staticmethod
    def unpacked(message: Tensor) -> Passing:
        """Return what a stage before has packed."""
        hidden, first = message[:, :-1].chunk(2)
        return Passing(hidden, first, bool(message[0, -1, 0].item()))


@final
class ReusedLayers:
    """What the layers behind the first have added to a batch's hidden states (last stage).

    Args:
        work: The request.
        branches: Of the batch.
        place: Names this rank's tokens in a snapshot; empty: all.
    """

    def __init__(self, work: Denoising, branches: range, place: str) -> None:
        self._work, self._branches, self._place = work, branches, place
        self._added: dict[Part, tuple[int, Tensor]] = {}
        self._saved = work.resumed

    def finished(self, forward: Forward, passing: Passing) -> Tensor:
        """Return the hidden states after the last layer."""
        part, task = part_of(self._work, forward), forward.task
        self._restore()
        if passing.reused:
            added = self._added[part][1]
            hidden = passing.first + added
        else:
            hidden, added = passing.hidden, passing.hidden - passing.first
        self._added[part] = task.step, added
        self._forget(task)
        return hidden

    def _restore(self) -> None:
        """Take what was saved, once, on the ranks that need it."""
        saved, self._saved = self._saved, None
        for block, expert, frames, step, *_ in () if saved is None else saved.facts["reuse"]:
            assert saved is not None
            part = block, expert, tuple(frames)
            rows = [saved.tensor(name) for name in self._names(part)]
            self._added[part] = step, torch.cat(rows).to(self._work.device)

    def _names(self, part: Part) -> list[str]:
        return [name_of(part, "rest", branch, self._place) for branch in self._branches]

    def _forget(self, task: Task) -> None:
        self._added = {
            part: (step, x)
            for part, (step, x) in self._added.items()
            if not is_over(part, step, task)
        }

    def state(self) -> dict[str, Tensor]:
        """Return what is kept between two tasks, by name."""
        return {
            name: x[row : row + 1]
            for part, (_, x) in self._added.items()
            for row, name in enumerate(self._names(part))
        }
