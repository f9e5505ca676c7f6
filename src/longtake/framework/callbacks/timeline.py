"""Draws what every rank did, and when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

import lightning.pytorch as pl
from typing_extensions import override

from longtake.framework.callbacks.base import LongtakeCallback
from longtake.framework.events import FramesDecoded
from longtake.framework.request import Request
from longtake.framework.run_folder import RunFolder
from longtake.plan.actions import Action, Compute, Emit
from longtake.plan.picture import Box, draw
from longtake.plan.text import format_action, parse_action
from longtake.strategies import ActionDone, BlockDone, Peers, TaskDone

LONGEST: Final = 100_000
"""Actions of a rank that are kept, the latest ones: an endless video has endless actions."""


@final
class TimelineWriter(LongtakeCallback):
    """Writes ``timeline.svg``, each rank a row and each micro-task a box, and ``timeline.txt``.

    The text has a line per action: rank, start and end in seconds since the request's start, and
    the action as plans have it. Works on every rank; the first one writes.

    Args:
        folder: The run's folder.
        peers: Gives the ranks of the run, once they have met.
    """

    def __init__(self, folder: RunFolder, peers: Callable[[], Peers]) -> None:
        self._folder = folder
        self._peers = peers
        self._origin = 0.0
        self._actions: deque[tuple[float, float, Action]] = deque(maxlen=LONGEST)
        self._since = 0.0
        self._block = 0

    @override
    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Request,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Set all ranks' clocks to zero: those of different machines differ."""
        self._actions.clear()
        self._peers().agree(True)
        self._origin = time.perf_counter()

    @override
    def on_action_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: ActionDone
    ) -> None:
        """Note an action; that of emitting a block is noted as it is decoded."""
        if not isinstance(event.action, Emit):
            self._note(event.start, event.stop, event.action)
        self._since = time.perf_counter()

    @override
    def on_task_end(self, trainer: pl.Trainer, module: pl.LightningModule, event: TaskDone) -> None:
        """Note when decoding may have begun."""
        self._since = time.perf_counter()

    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Note which block is decoded next."""
        self._block = event.block
        self._since = time.perf_counter()

    @override
    def on_frames(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: FramesDecoded
    ) -> None:
        """Note that a latent frame has been decoded, and written by the callbacks before."""
        now = time.perf_counter()
        self._note(self._since, now, Emit(block=self._block, frames=1))
        self._since = now

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Request,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather the ranks' actions and write them."""
        mine = "\n".join(
            f"{start:.6f} {stop:.6f} {format_action(action)}"
            for start, stop, action in self._actions
        )
        ranks = self._peers().gather(mine)
        boxes = [
            Box(rank, parse_action(action), float(start), float(stop))
            for rank, text in enumerate(ranks)
            for start, stop, action in (line.split(" ", 2) for line in text.splitlines())
        ]
        if not any(isinstance(box.action, Compute) for box in boxes):
            return  # another rank, a strategy without actions, or a run ended before the first one
        folder = self._folder.request_folder(batch.index)
        lines = [f"{b.rank} {b.start:.6f} {b.stop:.6f} {format_action(b.action)}" for b in boxes]
        name = folder.relative_to(self._folder.path)
        self._folder.write_text(f"{name}/timeline.txt", "\n".join(lines) + "\n")
        title = f"request {batch.index}: colour is block, darker is cleaner, grey is decoding"
        self._folder.write_text(f"{name}/timeline.svg", draw(boxes, title))

    def _note(self, start: float, stop: float, action: Action) -> None:
        self._actions.append((start - self._origin, stop - self._origin, action))
