"""Reuse decider: one rank decides whether a task's layers are reused, the other first stages hear.

Ranks of later stages hear it with the hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from longtake.caches import Forward
from longtake.comm.communicator import Communicator
from longtake.plan.layout import Layout
from longtake.reuse import LayerReuse, ReuseStep
from longtake.strategies.runtime.denoising import Denoising
from longtake.task import Frames, Task

Part: TypeAlias = tuple[int, int, Frames]
"""A block, the expert at work, and the frames of the window: what is reused is of all three."""
Left: TypeAlias = tuple[tuple[int, int | None], ...]
"""Frames whose keys and values a task leaves, each with its last reader."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a part from its last forward.

    Args:
        added: What the first layer has added to this rank's tokens of the prompt's branch.
        step: The block's, then.
        reused: Forwards in a row whose layers were reused.
        memory: The rule's.
        kept: The frames whose keys and values it has left, each with its last reader.
    """

    added: Tensor
    step: int
    reused: int = 0
    memory: float = 0.0
    kept: Left = ()


def part_of(work: Denoising, forward: Forward) -> Part:
    """Return whose layers a task may reuse."""
    task = forward.task
    expert = work.backbone.spec.expert(work.sampler.timesteps[task.step])
    return task.block, expert, forward.window.frames


def left_by(forward: Forward) -> Left:
    """Return whose keys and values a task leaves, and for whom."""
    return tuple((entry.frame, kept.reader) for entry, kept in forward.window.keeps)


def is_over(part: Part, step: int, task: Task) -> bool:
    """Return whether no later task reuses what was last made of a part at a step."""
    if any(run.block == part[0] and run.last_step for run in task.runs):
        return True
    return part[0] == task.block and step < task.step - 1


def name_of(part: Part, *what: object) -> str:
    """Return what a snapshot calls a tensor of a part."""
    block, expert, frames = part
    return "/".join(map(str, ("reuse", block, expert, "-".join(map(str, frames)), *what)))


@final
class ReuseDecider:
    """Decides task by task on the first stages. The output rank's word counts.

    Args:
        rule: Decides.
        work: The request.
        ranks: All that have a first stage; those that share the prompt's tokens come first.
        rank: This one.
        sharing: How many share the prompt's tokens.
        place: Names this rank's tokens in a snapshot; empty: all.
    """

    def __init__(
        self,
        rule: LayerReuse,
        work: Denoising,
        ranks: Sequence[int] = (0,),
        rank: int = 0,
        sharing: int = 1,
        place: str = "",
    ) -> None:
        self._rule, self._work, self._place = rule, work, place
        self._ranks, self._sharing = tuple(ranks), sharing
        self._index = self._ranks.index(rank)
        self._known: dict[Part, _Known] = {}
        self._heard: tuple[int, bool] | None = None
        if work.resumed is not None and self._index < sharing:
            self._restore(work.resumed.facts.get("reuse", ()))

    @staticmethod
    def of(work: Denoising, layout: Layout, rank: int, place: str) -> ReuseDecider | None:
        """Return that of a rank; ``None`` where nothing is reused, or it has no first stage."""
        ranks = layout.first_ranks
        if work.reuse is None or rank not in ranks:
            return None
        return ReuseDecider(
            work.reuse, work, ranks, rank, layout.sequence, place if layout.sequence > 1 else ""
        )

    def decide(self, forward: Forward, before: Tensor, after: Tensor) -> bool:
        """Return whether the layers behind the first are reused. Collective: all first stages.

        Args:
            forward: The task.
            before: Hidden states before the first layer, row 0 the prompt's.
            after: Those after it.
        """
        if self._heard is not None and self._heard[0] == forward.task.index:
            return self._heard[1]  # another batch of the same task
        shares = self._index < self._sharing
        added = after[:1].float() - before[:1].float() if shares else after.new_empty(0)
        reused = self._exchanged(forward, added)
        self._heard = forward.task.index, reused
        return reused

    def _exchanged(self, forward: Forward, added: Tensor) -> bool:
        """Have the output rank decide, and note what all that share the tokens have to know."""
        part, task = part_of(self._work, forward), forward.task
        known, left = self._known.get(part), left_by(forward)
        if known is not None and known.kept != left:
            known = None  # what it has left is not what this task must leave
        sums = torch.zeros(2, dtype=torch.float64, device=added.device)
        if known is not None:
            sums[0] = (added - known.added).abs().sum(dtype=torch.float64)
            sums[1] = known.added.abs().sum(dtype=torch.float64)
        sums = self._gathered(sums)
        reused, memory = False, 0.0
        at = ReuseStep(
            step=task.step, steps=task.steps, reused=0 if known is None else known.reused
        )
        if self._index == 0 and known is not None:
            change = (sums[0] / sums[1]).item() if sums[1] else math.inf
            reused, memory = self._rule.decide(change, at, known.memory)
        reused = self._told(reused, added.device)
        if self._index < self._sharing:
            keeps = reused and known is not None and self._rule.compares_with == "computed"
            kept = known.added if keeps and known is not None else added
            count = at.reused + 1 if reused else 0
            self._known[part] = _Known(kept, task.step, count, memory, left)
            self._known = {
                one: x for one, x in self._known.items() if not is_over(one, x.step, task)
            }
        return reused

    def _gathered(self, sums: Tensor) -> Tensor:
        """Return the sums over all tokens of the prompt's branch on the output rank."""
        if self._sharing == 1:
            return sums
        group = self._communicator.group(self._ranks)
        if self._index == 0:
            coming = [(place, torch.empty_like(sums)) for place in range(1, self._sharing)]
            group.begin([], coming).end()
            return torch.stack([sums, *(part for _, part in coming)]).sum(0)
        if self._index < self._sharing:
            group.begin([(0, sums)], []).end()
        return sums

    def _told(self, reused: bool, device: torch.device) -> bool:
        """Return what the output rank has decided."""
        if len(self._ranks) == 1:
            return reused
        group, word = self._communicator.group(self._ranks), torch.zeros(1, device=device)
        if self._index == 0:
            word += reused
            group.begin([(place, word) for place in range(1, len(self._ranks))], []).end()
        else:
            group.begin([], [(0, word)]).end()
        return bool(word.item())

    @property
    def _communicator(self) -> Communicator:
        return self._work.communicator

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return what is kept between two tasks: tensors by name, and facts (output rank)."""
        tensors = {name_of(part, "first", self._place): x.added for part, x in self._known.items()}
        facts = [
            [block, expert, list(frames), x.step, x.reused, x.memory, list(x.kept)]
            for (block, expert, frames), x in self._known.items()
        ]
        return tensors, facts if self._index == 0 else []

    def _restore(self, facts: Sequence[Any]) -> None:
        assert self._work.resumed is not None
        for block, expert, frames, step, reused, memory, kept in facts:
            part = block, expert, tuple(frames)
            added = self._work.resumed.tensor(name_of(part, "first", self._place))
            left = tuple((frame, reader) for frame, reader in kept)
            self._known[part] = _Known(added.to(self._work.device), step, reused, memory, left)
