"""Timeline writer: what every rank did, and when, as a picture and as text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias, final

import lightning.pytorch as pl
from typing_extensions import override

from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_folder import RunFolder
from longtake.plan.cost.timeline import Box, draw
from longtake.plan.ir.actions import Action, Compute
from longtake.plan.ir.text import format_action, parse_action
from longtake.strategies import ActionDone, Communicator

LONGEST: Final = 100_000
"""Actions of a rank that are kept, the latest ones: an endless video has endless actions."""
_Timed: TypeAlias = tuple[float, float, Action]


@final
class TimelineWriter(VideoHooks):
    """Writes ``timeline.svg``, each rank a row and each micro-batch a box, and ``timeline.txt``.

    The text has a line per action: rank, start and end in seconds since the request's start, and
    the action as plans have it. Works on every rank; the first one writes.

    Args:
        folder: The run's folder.
        communicator: Gives the ranks of the run, once they have met.
    """

    def __init__(self, folder: RunFolder, communicator: Callable[[], Communicator]) -> None:
        self._folder = folder
        self._communicator = communicator
        self._origin = 0.0
        self._actions: dict[int, deque[_Timed]] = {}
        self._request = 0

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set all ranks' clocks to zero: those of different machines differ."""
        self._actions.clear()
        self._communicator().gather("")  # a rank goes on when all are here
        self._origin = time.perf_counter()

    @override
    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Request,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note which request's actions come."""
        self._request = batch.index
        self._actions[batch.index] = deque(maxlen=LONGEST)

    @override
    def on_action_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: ActionDone
    ) -> None:
        """Note an action."""
        times = event.start - self._origin, event.stop - self._origin
        self._actions[self._request].append((*times, event.action))

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the ranks' actions and write them, when no rank waits for another one."""
        for index, actions in self._actions.items():
            mine = "\n".join(
                f"{start:.6f} {stop:.6f} {format_action(action)}" for start, stop, action in actions
            )
            ranks = self._communicator().gather(mine)
            boxes = [
                Box(rank, parse_action(action), float(start), float(stop))
                for rank, text in enumerate(ranks)
                for start, stop, action in (line.split(" ", 2) for line in text.splitlines())
            ]
            # None on another rank, of a strategy without actions, of a request that never began.
            if any(isinstance(box.action, Compute) for box in boxes):
                self._write(index, boxes)

    def _write(self, index: int, boxes: list[Box]) -> None:
        first = min(box.start for box in boxes)
        boxes = [replace(box, start=box.start - first, stop=box.stop - first) for box in boxes]
        folder = self._folder.request_folder(index)
        lines = [f"{b.rank} {b.start:.6f} {b.stop:.6f} {format_action(b.action)}" for b in boxes]
        name = folder.relative_to(self._folder.path)
        self._folder.write_text(f"{name}/timeline.txt", "\n".join(lines) + "\n")
        title = f"request {index}: colour is block, darker is cleaner, grey is decoding"
        self._folder.write_text(f"{name}/timeline.svg", draw(boxes, title))
