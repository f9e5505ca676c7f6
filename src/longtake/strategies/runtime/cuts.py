"""Cuts of a request: where all ranks have done the same tasks, and what they hold then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.task import FrameRange, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LateBlock:
    """A block that was finished while its request was being closed: nobody has heard of it.

    Args:
        block: Index of the block.
        frames: Its latent frames.
        latents: ``(1, C, F, H, W)`` fp32 on the rank's device.
    """

    block: int
    frames: FrameRange
    latents: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CutState:
    """What one rank, or all of them, hold of a request at a cut.

    Args:
        index: The cut: every task before this one is done with its sampler steps, and no other
            one is begun.
        tensors: By name: ``blocks/<block>/latents``, ``features/<layer>/...``. Not to be changed;
            some are parts of others.
        facts: What JSON can say: of the blocks in flight (``queue``), of the entries that are held
            (``entries``).
        late: Blocks that nobody has heard of.
    """

    index: int
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    late: tuple[LateBlock, ...] = ()

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of some tokens and heads.

        Raises:
            ConfigurationError: The tokens and heads were cut otherwise.
        """
        if name not in self.tensors:
            raise ConfigurationError(
                "the run cannot go on with other ring and Ulysses degrees: its snapshot holds what "
                "each device has kept of its own tokens and heads; choose the degrees that it was "
                "begun with; another number of stages is fine."
            )
        return self.tensors[name]

    @classmethod
    def joined(cls, states: Iterable[CutState]) -> Self:
        """Return what all ranks hold together at one cut."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        indices = set()
        for state in states:
            tensors.update(state.tensors)
            facts.update(state.facts)
            indices.add(state.index)
        (index,) = indices
        return cls(index=index, tensors=tensors, facts=facts)


class Cuts(ABC):
    """Where a request is cut, and who takes what ranks hold there.

    At a cut no task is under way: nothing that is saved has to be recalled from a message. What
    that costs is the time in which a pipeline runs empty and full again.
    """

    @abstractmethod
    def begin(self) -> None:
        """Settle where the next cut is. Collective: all ranks of the mesh call it, at each cut."""

    @abstractmethod
    def falls_between(self, before: Task, after: Task) -> bool:
        """Whether the request is cut between two tasks: a pure function, alike on every rank."""

    @abstractmethod
    def take(self, state: CutState) -> None:
        """Take what this rank holds at a cut, also at the one where a request is closed."""
