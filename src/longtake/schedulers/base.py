"""Block scheduler contract: which tasks there are, what each sees of the rest, what it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from longtake.schedulers.card import MethodCard
from longtake.task import FrameRange, Task, Video


class BlockScheduler(ABC):
    """Cuts a video into blocks and orders their tasks.

    Pure data: no tensors, no processes, no state between calls. The order it yields *is* the
    meaning of a run: every strategy gives what running the tasks one after another gives.
    """

    cards: ClassVar[Sequence[MethodCard]] = ()
    """The methods that it runs, as ``longtake methods`` lists them."""
    known_frames: ClassVar[Literal["held", "copied"]] = "held"
    """What becomes of known frames at the video's beginning: they are held in their place, or
    blocks are copies of them, as the schedule says."""

    @abstractmethod
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        """Yield the blocks' latent frames, in the order of time.

        Blocks tile the video: no overlap, no gap, exactly ``latent_frames`` in all. Warm-up
        blocks, whose numbers are negative, are not among them.

        Args:
            latent_frames: Length of the video in latent frames; ``None`` for an endless one.
        """

    @abstractmethod
    def tasks(self, video: Video) -> Iterator[Task]:
        """Yield every task once, in serial order, lazily.

        Tasks are numbered in that order, from 0. A block's steps come in order, and blocks finish
        in the order of time. What a task says takes no more memory the longer the video is.

        Args:
            video: What the tasks are for.

        Raises:
            ConfigurationError: There is no such schedule; says what is possible.
        """

    @abstractmethod
    def blocks_in_flight(self, video: Video) -> int:
        """Return the largest number of blocks that are between their first and last step at once.

        Args:
            video: What the tasks are for.
        """
