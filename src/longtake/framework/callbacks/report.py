"""Report of a run: what it took, for people and programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from longtake.errors import OutputError
from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.callbacks.memory import (
    MEGABYTE,
    anonymous_bytes,
    peak_device_bytes,
    peak_resident_bytes,
)
from longtake.framework.callbacks.progress import ProgressKind, resolved_kind
from longtake.framework.callbacks.progress_state import ProgressState
from longtake.framework.console.lines import line_of
from longtake.framework.console.versions import versions
from longtake.framework.engine.applied import Applied, model_of, settings_of
from longtake.framework.engine.events import ExitReason, FramesDecoded, RequestEnded, RequestStarted
from longtake.framework.engine.frame_rate import written
from longtake.framework.engine.replica_reports import (
    forget_parts,
    merged,
    pace,
    part_name,
    parts_of,
)
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_description import request_described
from longtake.framework.engine.run_folder import REPORT, RunFolder
from longtake.framework.engine.timings import Timings
from longtake.framework.engine.worker import Job
from longtake.framework.engine.workloads import Workloads
from longtake.strategies import BlockDone, Communicator, TaskDone

FORMAT: Final = 1
"""Of ``report.json``."""
_SHOWN: Final = (
    "timesteps",
    "guidance",
    "guidance_scale",
    "guidance_scale_2",
    "sampler",
    "flow_shift",
)
"""Settings of a request that a report shows beside its size."""


def _at_once(job: Job) -> None:
    job()


@dataclass(slots=True)
class _Figures:
    """One request, as it goes on."""

    request: Request
    state: ProgressState
    settings: Applied
    made_from: Mapping[str, Any]
    seconds: float | None = None
    reason: ExitReason | None = None
    there: int | None = None
    """Video frames in the file of a request that has failed."""
    left: Mapping[str, Any] | None = None
    """The video of a request that has ended, as it was then."""
    replica: int | None = None
    """Which one makes it, where there are several."""

    def as_json(self) -> dict[str, Any]:
        seconds = self.state.seconds if self.seconds is None else self.seconds
        growth = self.request.growth
        before = 0 if growth is None else growth.frames
        return {
            "index": self.request.index,
            "exit_reason": None if self.reason is None else self.reason.value,
            **({} if self.replica is None else {"replica": self.replica}),
            "frames": before + self.new_frames if self.there is None else self.there,
            "frames_asked_for": self.request.whole_frames,
            "left": self.left,
            **({} if growth is None else {"extended_at": list(growth.seams)}),
            "blocks": self.state.blocks_done,
            "tasks": self.state.tasks_done,
            "steps": self.state.steps,
            "height": self.request.height,
            "width": self.request.width,
            "fps": written(self.request.fps),
            "seed": self.request.seed,
            **self.made_from,
            **{name: self.settings[name] for name in _SHOWN if name in self.settings},
            "first_frame_seconds": _rounded(self.state.first_frame_seconds),
            "seconds": _rounded(seconds),
            "frames_per_second": _rounded(self.new_frames / seconds if seconds > 0 else 0.0),
        }

    @property
    def new_frames(self) -> int:
        """Video frames made, but for those of before with which the part of a video begins."""
        growth = self.request.growth
        return max(0, self.state.frames - (0 if growth is None else growth.known))


@final
class ReportWriter(VideoHooks):
    """Writes ``report.json`` as a request goes on, and prints a summary at the end.

    A report without an exit reason is that of a run that goes on, or that was killed: what it says
    is made is in the file. Of a run that goes on, requests that were finished before keep theirs.
    Memory is that of this process; ``peak_anonymous_bytes``, without mapped files, is the most that
    was seen after a task. Goes after the video writer, so that its figures hold what that
    one took. With several replicas each writes a report of its own requests, which the first one's
    holds in the end.

    Args:
        folder: The run's folder.
        timings: Seconds per part.
        summary: How the summary is printed; ``none`` prints nothing.
        workloads: The run's, for the model and its settings.
        communicator: The ranks of the run, once they have met.
        earlier: The report of an earlier process, where the run goes on.
        after_frames: Does something as soon as the video frames so far are in the file: what a
            report of a run that goes on says is made, is there.
        description: What the whole run is made with; see ``described``.
        inputs: What ``inputs.json`` says.
        there: Says how many video frames are in the file of the last request, where it has failed.
        left: Says what the last request has left; see ``left_at``.
        touched: What has become since of videos that an earlier process has finished, by request.
        replica: This one's number, where there are several.
    """

    def __init__(
        self,
        folder: RunFolder,
        timings: Timings,
        summary: ProgressKind = "plain",
        workloads: Workloads | None = None,
        communicator: Callable[[], Communicator] = Communicator.alone,
        earlier: Mapping[str, Any] | None = None,
        after_frames: Callable[[Job], None] = _at_once,
        there: Callable[[], int] | None = None,
        description: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        left: Callable[[], Mapping[str, Any] | None] = lambda: None,
        touched: Mapping[int, str] | None = None,
        replica: int | None = None,
    ) -> None:
        self._folder = folder
        self._left = left
        self._touched = touched or {}
        self._communicator = communicator
        self._timings = timings
        self._summary = resolved_kind(summary)
        self._workloads = workloads
        self._earlier = dict(earlier or {})
        self._after_frames = after_frames
        self._there = there
        self._description = description or {}
        self._inputs = inputs
        self._versions = versions()  # reads files: once, not with every block
        self._replica = replica
        self._name = part_name(replica or 0)
        self._anonymous: int | None = None
        self._due = False
        self._start = time.perf_counter()
        self._requests: list[_Figures] = []
        self._reason: ExitReason | None = None
        self._error: str | None = None

    @override
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Begin to count a request."""
        request, work = event.request, self._workloads
        settings = {} if work is None else settings_of(work, request)
        made_from: Mapping[str, Any] = {}
        if work is not None and self._inputs is not None:
            made_from = request_described(work, request, self._inputs["requests"][request.index])
        state = ProgressState(event)
        self._requests.append(_Figures(request, state, settings, made_from, replica=self._replica))
        self._write(module)

    @override
    def on_task_end(self, trainer: pl.Trainer, module: pl.LightningModule, event: TaskDone) -> None:
        """Count a task; after a block's end, say how far the video is."""
        self._look_at_memory()
        self._requests[-1].state.update(event)
        if self._due:
            self._due = False
            self._after_frames(partial(self._folder.write_json, self._name, self._content(module)))

    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Count a block."""
        self._requests[-1].state.update(event)
        self._due = True  # what is decoded of it is in the file when the next task has ended

    @override
    def on_frames(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: FramesDecoded
    ) -> None:
        """Count video frames."""
        self._requests[-1].state.update(event)

    @override
    def on_request_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestEnded
    ) -> None:
        """Write what the request took."""
        figures = self._requests[-1] if self._requests else None
        if figures is None or figures.request.index != event.request.index:
            return  # an earlier callback refused the request before it was counted here
        figures.seconds = figures.state.seconds
        figures.reason = event.reason
        figures.left = self._left()
        if event.reason is not ExitReason.FAILED:  # then on_exception comes next, with the error
            self._write(module)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last figures and print the summary."""
        parts = self._replica is not None and trainer.is_global_zero
        if self._name != REPORT or not (self._requests or parts):
            return  # another rank owns the output, or the report
        reasons = [figures.reason for figures in self._requests]
        reasons += [one["exit_reason"] for one in merged(*self._parts())]
        stopped = ExitReason.STOPPED in reasons
        self._finish(pl_module, ExitReason.STOPPED if stopped else ExitReason.FINISHED)
        if parts:
            forget_parts(self._folder)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write and print what was made until the error."""
        owns_output = bool(self._requests) or self._replica == 0
        before_any = trainer.is_global_zero and not (self._folder.path / REPORT).exists()
        if not (owns_output or before_any):
            return  # every rank hears of the error; one of them reports it
        interrupted = isinstance(exception, KeyboardInterrupt)
        self._error = f"{type(exception).__name__}: {exception}"
        reason = ExitReason.STOPPED if interrupted else ExitReason.FAILED
        for figures in self._requests[-1:]:
            if figures.reason in (None, ExitReason.FAILED):
                figures.seconds = figures.seconds or figures.state.seconds
                figures.reason = reason
                figures.there = None if self._there is None else self._there()
        with suppress(OutputError):  # the error that ended the run is the one to show
            self._finish(pl_module, reason)

    def _finish(self, module: pl.LightningModule, reason: ExitReason) -> None:
        self._reason = reason
        report = self._write(module)
        match self._summary if self._name == REPORT else "none":
            case "rich":
                Console(stderr=True).print(summary_table(report))
            case "plain":
                sys.stderr.write(summary_line(report) + "\n")
            case "none":
                pass

    def _write(self, module: pl.LightningModule) -> dict[str, Any]:
        report = self._content(module)
        self._folder.write_json(self._name, report)
        return report

    def _since(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is said of an earlier request, but for what is not there any more."""
        touched = self._touched.get(said["index"])
        return said if touched is None else {**said, "frames": 0, "touched": touched}

    def _parts(self) -> list[dict[str, Any]]:
        """Return what other replicas have reported by now."""
        return [] if self._replica is None else parts_of(self._folder)

    def _look_at_memory(self) -> None:
        now = anonymous_bytes()
        if now is not None:
            self._anonymous = max(now, self._anonymous or 0)

    def _content(self, module: pl.LightningModule) -> dict[str, Any]:
        self._look_at_memory()
        own = self._own(module)
        if self._name != REPORT:
            return own
        parts = self._parts()
        earlier = {"requests": [self._since(one) for one in self._earlier.get("requests", ())]}
        requests = merged(earlier, *parts, own)
        beside = [{name: part[name] for name in own if name in part} for part in (own, *parts)]
        for part in beside:
            part["requests"] = [one["index"] for one in part["requests"]]
        return {
            "format": FORMAT,
            "exit_reason": None if self._reason is None else self._reason.value,
            "error": self._error,
            "frames": sum(one["frames"] for one in requests),
            "resumed": self._earlier.get("resumed", 0) + 1 if self._earlier else 0,
            "seconds": own["seconds"],
            "parts": own["parts"],
            "memory": own["memory"],
            **({} if self._replica is None else {"replicas": beside}),
            **({} if self._workloads is None else model_of(self._workloads.model)),
            **self._description,
            "device": str(module.device),
            "ranks": self._communicator().world_size,
            "transport": self._communicator().transport_name,
            "versions": self._versions,
            "requests": requests,
        }

    def _own(self, module: pl.LightningModule) -> dict[str, Any]:
        """Return what this replica's output rank knows."""
        return {
            **({} if self._replica is None else {"replica": self._replica}),
            "seconds": _rounded(time.perf_counter() - self._start),
            "parts": {part: _rounded(took) for part, took in self._timings.seconds.items()},
            "memory": {
                "peak_resident_bytes": peak_resident_bytes(),
                "peak_anonymous_bytes": self._anonymous,
                "peak_device_bytes": peak_device_bytes(module.device),
            },
            "requests": [figures.as_json() for figures in self._requests],
        }


def summary_line(report: dict[str, Any]) -> str:
    """Return a report's main figures as one line of ``key=value`` pairs."""
    parts = {f"{part}_seconds": took for part, took in report["parts"].items()}
    on_device = report["memory"]["peak_device_bytes"]
    return line_of(
        event="summary",
        reason=report["exit_reason"],
        requests=len(report["requests"]),
        frames=report["frames"],
        seconds=report["seconds"],
        **parts,
        frames_per_second=_pace(report),
        peak_memory_mb=round(report["memory"]["peak_resident_bytes"] / MEGABYTE),
        peak_device_memory_mb=None if on_device is None else round(on_device / MEGABYTE),
    )


def summary_table(report: dict[str, Any]) -> Table:
    """Return a report's main figures as a table for a terminal."""
    table = Table(title=f"{report['exit_reason']}: {report['frames']} video frames")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    for part, took in report["parts"].items():
        table.add_row(part, f"{took:.1f}")
    table.add_row("total", f"{report['seconds']:.1f}", end_section=True)
    for figures in report["requests"]:
        first = figures["first_frame_seconds"]
        if first is not None:
            table.add_row(f"request {figures['index']}, first frame after", f"{first:.1f}")
    table.add_section()
    table.add_row("video frames per second", f"{_pace(report):.2f}")
    memory = report["memory"]
    table.add_row("peak memory, MB", f"{memory['peak_resident_bytes'] / MEGABYTE:,.0f}")
    if memory["peak_device_bytes"] is not None:
        table.add_row("peak device memory, MB", f"{memory['peak_device_bytes'] / MEGABYTE:,.0f}")
    return table


def _pace(report: dict[str, Any]) -> float:
    return pace(report["requests"], report["frames"])


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
