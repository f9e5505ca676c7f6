"""Guidance contract: which forwards a task makes beside the prompt's, and what joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A forward of every task: a row of the batch dim.

    Args:
        negative: Whether it is conditioned on the negative prompt instead of the prompt.
        skipped: Layers that leave its hidden states as they are.
        unattended: Layers whose self-attention gives it its values as they are: every token sees
            itself alone.
    """

    negative: bool = False
    skipped: tuple[int, ...] = ()
    unattended: tuple[int, ...] = ()


CONDITIONAL: Final = Branch()
"""The forward with the prompt."""
UNCONDITIONAL: Final = Branch(negative=True)
"""The forward with the negative prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceSettings:
    """What a run and its model say about guidance.

    Args:
        scales: ``model.guidance_scale`` of each expert, the noisy steps' first: the user's, or
            else the model's own.
        layers: Of the model.
        embeds: Whether the model is told a scale (HunyuanVideo).
    """

    scales: tuple[float, ...]
    layers: int = 1
    embeds: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedStep:
    """Where a block stands when its branches are joined.

    Args:
        step: Denoising step, 0 = noisiest.
        steps: How many there are.
        expert: Which of the model's experts works, 0 for the noisy steps.
    """

    step: int
    steps: int
    expert: int = 0


GuidanceState: TypeAlias = Mapping[str, Tensor]
"""What a guidance keeps of a block from one step to the next: tensors by name."""


class Guidance(ABC):
    """Branches of every task, and how their predictions become one.

    Every forward makes all branches, whatever its step: neighbors that are at other steps see the
    keys and values that each branch has left. What is kept between steps is of one block, and
    passed in: a guidance itself remembers nothing, and may join blocks in any order.

    To be chosen in YAML by its ``class_path``, a guidance takes ``GuidanceSettings`` as the first
    argument of its ``__init__``; further ones are its options. What cannot be is refused there
    with a ``ConfigurationError``, before any weight is read.

    Args:
        settings: Of the run.
    """

    def __init__(self, settings: GuidanceSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def branches(self) -> tuple[Branch, ...]:
        """The forwards of a task, each once, ``CONDITIONAL`` first."""

    @abstractmethod
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        """Join the branches' predictions of frames of one block.

        Args:
            predictions: Of each branch, ``(1, C, F, H, W)``; not changed.
            at: Where the block stands.
            state: What the block's last step returned, empty at its first; not changed. Where
                several windows of a step hold the block, each has its own.

        Returns:
            The prediction that the sampler takes, ``(1, C, F, H, W)``, and what to keep.
        """

    @property
    def embedded(self) -> float:
        """The scale that a model with embedded guidance is told; by default 1."""
        return 1.0

    def __repr__(self) -> str:
        options = {name: value for name, value in vars(self).items() if name != "settings"}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in options.items())})"


GuidanceChoice: TypeAlias = Callable[[GuidanceSettings], Guidance] | None
"""What makes a guidance of the settings; ``None``: what the model was made for."""
