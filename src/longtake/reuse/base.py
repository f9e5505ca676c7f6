"""Layer reuse contract: at which steps what a block's layers added before is added again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseStep:
    """Where a block stands when it is decided whether its layers are reused.

    Args:
        step: Denoising step, 0 = noisiest.
        steps: How many there are.
        reused: Forwards in a row, up to this one, whose layers were reused.
    """

    step: int
    steps: int
    reused: int = 0


class LayerReuse(ABC):
    """Decides whether a forward runs all layers, or the first one and adds what the rest added.

    The first layer of the prompt's branch is always run; what it adds to the hidden states is
    compared with what it added before, in the same block, window and expert. Where there is nothing
    to compare with, all layers are run. One rank decides for all branches and ranks.

    What is remembered is a number for each block, passed in: a rule itself remembers nothing, and
    is a pure function. To be chosen in YAML by its ``class_path``; options are the arguments of its
    ``__init__``.
    """

    compares_with: Literal["computed", "last"] = "computed"
    """The change is since the last forward that ran all layers, or since the last one."""

    @abstractmethod
    def decide(self, change: float, at: ReuseStep, memory: float) -> tuple[bool, float]:
        """Return whether the layers are reused, and what to remember.

        Args:
            change: Mean absolute difference of what the first layer adds, relative to the mean
                absolute value of what it is compared with.
            at: Where the block stands.
            memory: What the last decision of the block returned; 0 after a forward without one.
        """

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


ReuseChoice: TypeAlias = Callable[[], LayerReuse] | None
"""What makes a rule; ``None``: every forward runs all layers."""
