"""Progress display base: what displays have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import lightning.pytorch as pl
from typing_extensions import override

from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.callbacks.progress_state import ProgressState
from longtake.framework.engine.events import ExitReason, FramesDecoded, RequestEnded, RequestStarted
from longtake.strategies import BlockDone, TaskDone


class ProgressDisplay(VideoHooks):
    """Keeps count of a request, and asks its subclass to show it."""

    def __init__(self) -> None:
        self._state: ProgressState | None = None

    @abstractmethod
    def show_start(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Show that a request begins."""

    @abstractmethod
    def show_block(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Show that a block is finished; its video frames are not decoded yet."""

    @abstractmethod
    def show_end(
        self, state: ProgressState, module: pl.LightningModule, reason: ExitReason
    ) -> None:
        """Show that a request is over. Called once per ``show_start``."""

    @final
    @override
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Begin to count."""
        self._state = ProgressState(event)
        self.show_start(self._state, module)

    @final
    @override
    def on_task_end(self, trainer: pl.Trainer, module: pl.LightningModule, event: TaskDone) -> None:
        """Count a task."""
        self._current().update(event)

    @final
    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Count a block."""
        self._current().update(event)
        self.show_block(self._current(), module)

    @final
    @override
    def on_frames(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: FramesDecoded
    ) -> None:
        """Count video frames."""
        self._current().update(event)

    @final
    @override
    def on_request_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestEnded
    ) -> None:
        """Show the end."""
        self._end(module, event.reason)

    @final
    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Show the end, should an error have come between."""
        stopped = isinstance(exception, KeyboardInterrupt)
        self._end(pl_module, ExitReason.STOPPED if stopped else ExitReason.FAILED)

    def _current(self) -> ProgressState:
        if self._state is None:
            raise RuntimeError("an event came before its request's start")
        return self._state

    def _end(self, module: pl.LightningModule, reason: ExitReason) -> None:
        state, self._state = self._state, None
        if state is not None:
            self.show_end(state, module, reason)
