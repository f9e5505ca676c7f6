"""Progress as lines that people and programs read."""

from __future__ import annotations

import sys
from typing import final

import lightning.pytorch as pl
from typing_extensions import override

from longtake.framework.callbacks.memory import MEGABYTE, device_bytes, resident_bytes
from longtake.framework.callbacks.progress_display import ProgressDisplay
from longtake.framework.callbacks.progress_state import ProgressState
from longtake.framework.console.lines import Value, line_of
from longtake.framework.engine.events import ExitReason


@final
class PlainProgress(ProgressDisplay):
    """Prints a line of ``key=value`` pairs to stderr per finished block, at the start and the end.

    The first key is ``event``: ``request_start``, ``block_end`` or ``request_end``. ``frames``
    are video frames decoded so far, without those of the block that has just finished. What is
    not known, such as the totals of an endless video, is ``none``.
    """

    @override
    def show_start(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Print the totals."""
        _print(
            line_of(
                event="request_start",
                request=state.request,
                blocks=state.blocks,
                steps=state.steps,
                tasks=state.tasks,
                frames=state.video_frames,
            )
        )

    @override
    def show_block(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Print how far the request is."""
        block = state.blocks_done - 1
        figures = _figures(state, module, eta=state.eta)
        _print(line_of(event="block_end", request=state.request, block=block, **figures))

    @override
    def show_end(
        self, state: ProgressState, module: pl.LightningModule, reason: ExitReason
    ) -> None:
        """Print what was made."""
        figures = _figures(state, module, eta=0.0 if reason is ExitReason.FINISHED else None)
        _print(line_of(event="request_end", request=state.request, reason=reason.value, **figures))


def _figures(
    state: ProgressState, module: pl.LightningModule, *, eta: float | None
) -> dict[str, Value]:
    on_device = device_bytes(module.device)
    return {
        "blocks_done": state.blocks_done,
        "blocks": state.blocks,
        "tasks": state.tasks_done,
        "frames": state.frames,
        "seconds": state.seconds,
        "eta": eta,
        "first_frame_seconds": state.first_frame_seconds,
        "memory_mb": round(resident_bytes() / MEGABYTE),
        "device_memory_mb": None if on_device is None else round(on_device / MEGABYTE),
    }


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
