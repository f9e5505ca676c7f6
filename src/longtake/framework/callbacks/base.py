"""Callback base: Lightning callbacks with longtake's own moments."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import lightning.pytorch as pl

from longtake.framework.engine.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.request import Request
from longtake.strategies import ActionDone, BlockDone, TaskDone


class VideoHooks(pl.Callback):
    """A Lightning callback with hooks for the moments of a video. Override what you need.

    The hooks run on the output rank only (on a single device: always; with several replicas on that
    of each, for its requests), ``on_action_end`` on every rank. They run in the order in which
    callbacks are given, and block the run while they run. An exception ends the run on all ranks.
    """

    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Called before a request's first task."""

    def on_task_end(self, trainer: pl.Trainer, module: pl.LightningModule, event: TaskDone) -> None:
        """Called after each task: one step of one block."""

    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Called when a block is denoised, before it is decoded."""

    def on_frames(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: FramesDecoded
    ) -> None:
        """Called when video frames are decoded."""

    def on_request_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestEnded
    ) -> None:
        """Called once per started request, also when it is stopped or fails.

        But not when a second Ctrl-C ends the process at once: then comes ``on_exception`` alone.
        """

    def on_action_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: ActionDone
    ) -> None:
        """Called on every rank after each action of its plan, many times per task: be quick."""


class LongtakeCallback(VideoHooks):
    """The base of callbacks that scripts and configs give: ``trainer.callbacks`` takes them.

    longtake's own writers and displays subclass ``VideoHooks``: they are made from a run's folder
    and ranks, which no config can give (a script attaches them: ``trainer.attach``).
    """


def listens(callbacks: Sequence[pl.Callback]) -> bool:
    """Whether any of them does something at a moment of a video."""
    hooks = [name for name in vars(VideoHooks) if name.startswith("on_")]
    return any(
        getattr(type(callback), name) is not getattr(VideoHooks, name)
        for callback in callbacks
        if isinstance(callback, VideoHooks)
        for name in hooks
    )


def dispatch(
    callbacks: list[pl.Callback], trainer: pl.Trainer, module: pl.LightningModule, event: Event
) -> None:
    """Tell an event to every longtake callback, in order."""
    for callback in callbacks:
        if not isinstance(callback, VideoHooks):
            continue
        match event:
            case ActionDone():
                callback.on_action_end(trainer, module, event)
            case TaskDone():
                callback.on_task_end(trainer, module, event)
            case FramesDecoded():
                callback.on_frames(trainer, module, event)
            case BlockDone():
                callback.on_block_end(trainer, module, event)
            case RequestStarted():
                callback.on_request_start(trainer, module, event)
            case RequestEnded():
                callback.on_request_end(trainer, module, event)


def dispatch_failure(
    callbacks: list[pl.Callback], trainer: pl.Trainer, module: pl.LightningModule, request: Request
) -> None:
    """Tell every longtake callback that a request failed, whatever one of them raises.

    The error that ended the request is the one to show, so errors on the way out are dropped.
    """
    for callback in callbacks:
        with suppress(Exception):
            dispatch([callback], trainer, module, RequestEnded(request, ExitReason.FAILED))
