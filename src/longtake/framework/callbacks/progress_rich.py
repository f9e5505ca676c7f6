"""Progress for a terminal."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, final

import lightning.pytorch as pl
import torch
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from longtake.framework.callbacks.memory import MEGABYTE, device_bytes, resident_bytes
from longtake.framework.callbacks.progress_display import ProgressDisplay
from longtake.framework.callbacks.progress_state import ProgressState
from longtake.framework.engine.events import ExitReason

LEVELS: Final = "▁▂▃▄▅▆▇"
WAITING: Final = "·"
DONE: Final = "█"
STRIP_BLOCKS: Final = 60
STRIP_DONE: Final = 12


@final
class RichProgress(ProgressDisplay):
    """Shows blocks and steps, video frames, remaining time and memory, live on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None

    @override
    def show_start(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Begin the live display."""
        self._live = Live(
            get_renderable=lambda: picture(state, module.device), console=Console(stderr=True)
        )
        self._live.start()

    @override
    def show_block(self, state: ProgressState, module: pl.LightningModule) -> None:
        """Do nothing: the display refreshes by itself."""

    @override
    def show_end(
        self, state: ProgressState, module: pl.LightningModule, reason: ExitReason
    ) -> None:
        """Leave the last picture on the terminal."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            live.console.print(f"request {state.request} {reason.value}", style="bold")


def picture(state: ProgressState, device: torch.device) -> RenderableType:
    """Return what the display shows.

    Args:
        state: How far the request is.
        device: Whose memory is shown beside the host's.
    """
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        f"request {state.request}",
        ProgressBar(total=state.tasks, completed=state.tasks_done, width=32),
        f"tasks {_of(state.tasks_done, state.tasks)}",
        f"blocks {_of(state.blocks_done, state.blocks)}",
        f"frames {_of(state.frames, state.video_frames)}",
    )
    figures = [f"elapsed {_clock(state.seconds)}", f"left {_clock(state.eta)}"]
    if state.first_frame_seconds is not None:
        figures.append(f"first frame after {state.first_frame_seconds:.1f} s")
    figures.append(f"memory {resident_bytes() / MEGABYTE:,.0f} MB")
    on_device = device_bytes(device)
    if on_device is not None:
        figures.append(f"device memory {on_device / MEGABYTE:,.0f} MB")
    return Group(bar, strip(state), Text(", ".join(figures), style="dim"))


def strip(state: ProgressState) -> Text:
    """Return one character per block, as high as its steps: the blocks around those in flight."""
    in_flight = dict(state.in_flight)  # the run goes on while the display's thread reads
    start = max(0, state.blocks_done - STRIP_DONE)
    known = max(in_flight, default=state.blocks_done - 1) + 1
    stop = min(start + STRIP_BLOCKS, known if state.blocks is None else state.blocks)
    text = Text(f"block {start} ")
    for block in range(start, stop):
        if block in in_flight:
            text.append(LEVELS[in_flight[block] * (len(LEVELS) - 1) // state.steps], style="cyan")
        elif block < state.blocks_done:
            text.append(DONE, style="green")
        else:
            text.append(WAITING, style="dim")
    return text


def _of(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
