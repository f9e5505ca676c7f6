"""The output callbacks: what they write and print for a run's events."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import av
import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from typing_extensions import override

from longtake.errors import ConfigurationError, OutputError
from longtake.framework.callbacks import (
    LatentWriter,
    PlainProgress,
    ProgressState,
    ReportWriter,
    RichProgress,
    VideoHooks,
    VideoWriter,
    dispatch,
    progress_callback,
)
from longtake.framework.callbacks.progress_rich import picture, strip
from longtake.framework.engine.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.timings import Timings
from longtake.framework.writers import FrameWriter, VideoShape
from longtake.strategies import BlockDone, TaskDone
from longtake.task import FrameRange, Run, Task

BLOCKS, STEPS, BLOCK_FRAMES, FPS = 3, 2, 2, 8
FRAMES_PER_BLOCK = 4 * BLOCK_FRAMES
MODULE = pl.LightningModule()
TRAINER = cast(pl.Trainer, SimpleNamespace(is_global_zero=True))


def request(index: int = 0, *, endless: bool = False) -> Request:
    return Request(
        index=index,
        prompts=(PromptAt(at=0.0, text="a bird"),),
        negative_prompt="",
        num_frames=None if endless else BLOCKS * FRAMES_PER_BLOCK,
        height=32,
        width=48,
        fps=FPS,
        seed=7,
    )


def started(index: int = 0, *, endless: bool = False) -> RequestStarted:
    asked = request(index, endless=endless)
    blocks = None if endless else BLOCKS
    tasks = None if blocks is None else blocks * STEPS
    return RequestStarted(
        request=asked, blocks=blocks, steps=STEPS, tasks=tasks, video_frames=asked.num_frames
    )


def latents_of(block: int) -> torch.Tensor:
    return torch.full((1, 4, BLOCK_FRAMES, 4, 6), float(block))


def frames_of(block: int) -> torch.Tensor:
    return torch.full((FRAMES_PER_BLOCK, 32, 48, 3), 20 + 60 * (block % BLOCKS), dtype=torch.uint8)


def block_events(block: int) -> Iterator[Event]:
    frames = FrameRange(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES)
    for step in range(STEPS):
        run = Run(
            block=block,
            block_frames=frames,
            step=step,
            frames=frames.each,
            last_step=step == STEPS - 1,
        )
        task = Task(
            index=block * STEPS + step,
            iteration=block + step,
            block=block,
            step=step,
            steps=STEPS,
            runs=(run,),
            prompt=frames,
        )
        yield TaskDone(task)
    yield BlockDone(block, frames, latents_of(block))
    yield FramesDecoded(frames_of(block)[:1])
    yield FramesDecoded(frames_of(block)[1:])


def request_events(
    index: int = 0,
    *,
    blocks: int = BLOCKS,
    reason: ExitReason = ExitReason.FINISHED,
    endless: bool = False,
) -> Iterator[Event]:
    yield started(index, endless=endless)
    for block in range(blocks):
        yield from block_events(block)
    yield RequestEnded(request(index), reason)


def emit(callbacks: list[VideoHooks], events: Iterator[Event]) -> None:
    for event in events:
        dispatch(list[pl.Callback](callbacks), TRAINER, MODULE, event)


def levels(path: Path) -> list[int]:
    """Return each video frame's brightness."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [round(float(image.mean())) for image in pictures]


def expected_levels(blocks: int) -> list[Any]:
    return [
        pytest.approx(20 + 60 * block, abs=3)
        for block in range(blocks)
        for _ in range(FRAMES_PER_BLOCK)
    ]


def read_report(folder: RunFolder) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder.path / "report.json").read_text()))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.create()
    run.release()
    return run


# VideoWriter


@pytest.mark.parametrize("reason", list(ExitReason))
def test_video_holds_all_frames_whatever_ends_the_request(
    folder: RunFolder, reason: ExitReason
) -> None:
    timings = Timings()
    emit([VideoWriter().bind(folder, timings)], request_events(blocks=2, reason=reason))
    assert levels(folder.path / "0000" / "video.mp4") == expected_levels(2)
    assert timings.seconds["write"] > 0


def test_each_request_has_its_own_video(folder: RunFolder) -> None:
    writer = VideoWriter("webp", zoom=2).bind(folder, Timings())
    emit([writer], request_events(0, blocks=1))
    emit([writer], request_events(1, blocks=2))
    for index in (0, 1):
        files = [path.name for path in (folder.path / f"{index:04d}").iterdir()]
        assert files == ["video.webp"]


def test_an_exception_between_events_finishes_the_video(folder: RunFolder) -> None:
    writer = VideoWriter().bind(folder, Timings())
    emit([writer], iter([started(), *block_events(0)]))
    writer.on_exception(TRAINER, MODULE, ValueError("out of luck"))
    assert levels(folder.path / "0000" / "video.mp4") == expected_levels(1)


def test_a_request_without_frames_leaves_no_video(folder: RunFolder) -> None:
    emit([VideoWriter("gif").bind(folder, Timings())], request_events(blocks=0))
    assert list(folder.path.iterdir()) == []


def test_what_the_disk_refuses_is_one_sentence_and_said_once(folder: RunFolder) -> None:
    (folder.request_folder(0) / "video.mp4").mkdir()
    writer = VideoWriter().bind(folder, Timings())
    with pytest.raises(OutputError, match=r"^Cannot write the video in \S+: Is a directory\.$"):
        emit([writer], iter([started(), *block_events(0)]))
    emit([writer], iter([RequestEnded(request(), ExitReason.FAILED)]))


class BesideWriter(FrameWriter):
    """Writes nothing; notes in which thread, and fails or waits where it is told to."""

    def __init__(self, path: Path, video: VideoShape, fails: bool = False) -> None:
        super().__init__(path, video)
        self.fails = fails
        self.threads: set[str] = set()
        self.flushed: list[int] = []
        self.ended = ""
        self.gate = threading.Event()

    @override
    def open(self) -> None:
        assert threading.current_thread() is threading.main_thread()

    @override
    def write_picture(self, picture: Any) -> None:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(30)
        if self.fails:
            raise OSError(28, "No space left on device")

    @override
    def flush(self) -> None:
        self.flushed.append(self.frames)

    @override
    def close(self) -> None:
        self.ended += "closed"

    @override
    def abandon(self) -> None:
        self.ended += "abandoned"


@contextmanager
def writing_to(folder: RunFolder, *, fails: bool = False) -> Iterator[BesideWriter]:
    video = VideoShape(height=32, width=48, fps=FPS)
    made = BesideWriter(folder.path / "video", video, fails)
    target = "longtake.framework.callbacks.video_writer.frame_writer"
    with mock.patch(target, return_value=made):
        yield made


def test_frames_are_written_beside_the_run_and_in_order(folder: RunFolder) -> None:
    writer = VideoWriter().bind(folder, Timings())
    with writing_to(folder) as made:
        emit([writer], iter([started(), *block_events(0), *list(block_events(1))[:1]]))
        assert made.frames == 0, "the run has gone on, and nothing is written"
        made.gate.set()
        emit(
            [writer],
            iter([*list(block_events(1))[1:], RequestEnded(request(), ExitReason.FINISHED)]),
        )
    assert made.threads == {"longtake-write"}
    assert made.frames == 2 * FRAMES_PER_BLOCK
    assert made.flushed == [FRAMES_PER_BLOCK], "once, behind all frames of the block"
    assert made.ended == "closed"
    assert "longtake-write" not in {thread.name for thread in threading.enumerate()}


def test_what_the_disk_refuses_later_ends_the_run_with_the_same_sentence(
    folder: RunFolder,
) -> None:
    writer = VideoWriter().bind(folder, Timings())
    with writing_to(folder, fails=True) as made:
        made.gate.set()
        why = r"^Cannot write the video in \S+: No space left on device\.$"
        with pytest.raises(OutputError, match=why):
            emit([writer], request_events())
    emit([writer], iter([RequestEnded(request(), ExitReason.FAILED)]))
    assert (made.frames, made.ended) == (0, "abandoned")
    assert "longtake-write" not in {thread.name for thread in threading.enumerate()}


def test_a_report_says_only_what_is_in_the_file(folder: RunFolder) -> None:
    writer = VideoWriter().bind(folder, Timings())
    report = ReportWriter(folder, Timings(), "none", after_frames=writer.after_frames)
    with writing_to(folder) as made:
        emit([writer, report], iter([started(), *block_events(0), *list(block_events(1))[:1]]))
        assert read_report(folder)["frames"] == 0, "the file holds none yet"
        made.gate.set()
        emit([writer, report], iter([RequestEnded(request(), ExitReason.STOPPED)]))
    assert read_report(folder)["frames"] == FRAMES_PER_BLOCK


def test_a_second_ctrl_c_waits_for_nothing_and_the_report_says_what_is_there(
    folder: RunFolder,
) -> None:
    writer = VideoWriter().bind(folder, Timings())
    report = ReportWriter(folder, Timings(), "none", None, there=lambda: writer.there)
    with writing_to(folder) as made:
        emit([writer, report], iter([started(), *block_events(0), *block_events(1)]))
        for callback in (writer, report):  # while the first picture cannot be written
            callback.on_exception(TRAINER, MODULE, KeyboardInterrupt())
        (thread,) = (one for one in threading.enumerate() if one.name == "longtake-write")
        made.gate.set()
        thread.join()
    assert made.frames == 1, "what was under way is written, and nothing else"
    assert not made.flushed
    assert not made.ended
    content = read_report(folder)
    assert (content["exit_reason"], content["frames"]) == ("stopped", 0)
    assert content["requests"][0]["exit_reason"] == "stopped"


def test_a_report_of_a_full_disk_says_what_is_there(folder: RunFolder) -> None:
    writer = VideoWriter().bind(folder, Timings())
    report = ReportWriter(folder, Timings(), "none", None, there=lambda: writer.there)
    emit([writer, report], iter([started(), *block_events(0)]))
    written = threading.Event()
    writer.after_frames(written.set)
    assert written.wait(30)
    full = mock.patch.object(os, "pwrite", side_effect=OSError(28, "No space left on device"))
    more = iter([*block_events(1), *block_events(2), RequestEnded(request(), ExitReason.STOPPED)])
    with full, pytest.raises(OutputError) as refused:
        emit([writer, report], more)
    for callback in (writer, report):
        callback.on_exception(TRAINER, MODULE, refused.value)
    video = folder.path / "0000" / "video.mp4"
    assert read_report(folder)["frames"] == len(levels(video)) == FRAMES_PER_BLOCK


def test_video_options_come_from_yaml(folder: RunFolder) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoWriter, "video")
    config = parser.parse_string("video: {format: png, zoom: 3}")
    assert set(config.video.as_dict()) == {"format", "zoom", "crf", "label"}
    writer = parser.instantiate(config).video.bind(folder, Timings())
    emit([writer], request_events(blocks=1))
    assert len(list((folder.path / "0000" / "frames").iterdir())) == FRAMES_PER_BLOCK


@pytest.mark.parametrize(
    ("options", "why"), [({"zoom": 0}, "at least 1"), ({"crf": 52}, "0 to 51")]
)
def test_video_options_out_of_range_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        VideoWriter("mp4", **options)


# LatentWriter


def test_latents_are_written_block_by_block(folder: RunFolder) -> None:
    writer = LatentWriter(folder, keep="all")
    written = folder.path / "0004" / "latents"
    emit([writer], iter([started(4), *block_events(0)]))
    assert [path.name for path in written.iterdir()] == ["00000.safetensors"]
    emit([writer], iter([*block_events(1), *block_events(2)]))
    for block in range(3):
        path = written / f"{block:05d}.safetensors"
        assert torch.equal(load_file(path)["latents"], latents_of(block))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["latents"]
        assert json.loads(file.metadata()["longtake"])["facts"]["frames"] == "4:6"


def test_latents_are_not_left_unasked(folder: RunFolder) -> None:
    emit([LatentWriter(folder, keep="none")], request_events())
    assert list((folder.path / "0000").iterdir()) == []


def test_a_request_that_is_not_finished_keeps_all_that_it_needs_to_go_on(
    folder: RunFolder,
) -> None:
    emit([LatentWriter(folder, keep="none")], iter([started(4), *block_events(0)]))
    assert (folder.path / "0004" / "latents" / "00000.safetensors").exists()


# Progress


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def count(state: ProgressState, clock: Clock, seconds_per_task: float, blocks: range) -> None:
    for block in blocks:
        for event in block_events(block):
            assert isinstance(event, TaskDone | BlockDone | FramesDecoded)
            if isinstance(event, TaskDone):
                clock.now += seconds_per_task
            state.update(event)


def test_progress_state_counts_and_foresees() -> None:
    clock = Clock()
    state = ProgressState(started(), clock)
    etas = [state.eta]
    count(state, clock, 5.0, range(2))
    assert (state.blocks_done, state.tasks_done, state.tasks) == (2, 4, 6)
    assert state.frames == 2 * FRAMES_PER_BLOCK
    assert state.first_frame_seconds == 10.0
    assert state.seconds == 20.0
    etas.append(state.eta)
    count(state, clock, 5.0, range(2, 3))
    etas.append(state.eta)
    assert etas == [None, 10.0, 0.0]


def test_eta_follows_the_recent_pace() -> None:
    clock = Clock()
    many = RequestStarted(
        request=request(), blocks=1000, steps=STEPS, tasks=1000 * STEPS, video_frames=8000
    )
    state = ProgressState(many, clock)
    count(state, clock, 60.0, range(10))
    count(state, clock, 1.0, range(10, 60))
    assert state.eta == 2000 - 120


def plain_lines(text: str) -> list[dict[str, str]]:
    return [dict(pair.split("=") for pair in line.split(" ")) for line in text.splitlines()]


def test_plain_progress_is_machine_readable(capsys: pytest.CaptureFixture[str]) -> None:
    emit([PlainProgress()], request_events(3))
    out, err = capsys.readouterr()
    assert out == ""
    lines = plain_lines(err)
    assert [line["event"] for line in lines] == [
        "request_start",
        *["block_end"] * BLOCKS,
        "request_end",
    ]
    assert {line["request"] for line in lines} == {"3"}
    assert lines[0] | {"blocks": "3", "steps": "2", "tasks": "6", "frames": "24"} == lines[0]
    blocks = lines[1:-1]
    assert [line["block"] for line in blocks] == ["0", "1", "2"]
    assert [line["tasks"] for line in blocks] == ["2", "4", "6"]
    assert [line["frames"] for line in blocks] == ["0", "8", "16"]
    assert blocks[0]["first_frame_seconds"] == "none"
    assert blocks[-1]["eta"] == "0.000"
    assert float(blocks[1]["first_frame_seconds"]) <= float(blocks[1]["seconds"])
    assert int(blocks[0]["memory_mb"]) > 10
    assert blocks[0]["device_memory_mb"] == "none"
    assert lines[-1]["reason"] == "finished"
    assert lines[-1]["frames"] == "24"


def test_plain_progress_of_an_endless_video_has_no_totals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit([PlainProgress()], request_events(endless=True, reason=ExitReason.STOPPED))
    lines = plain_lines(capsys.readouterr().err)
    assert lines[0]["blocks"] == lines[0]["frames"] == "none"
    assert lines[2]["blocks"] == lines[2]["eta"] == "none"
    assert lines[2]["blocks_done"] == "2"
    assert lines[-1]["reason"] == "stopped"
    assert lines[-1]["eta"] == "none"


def test_an_exception_ends_the_display_once(capsys: pytest.CaptureFixture[str]) -> None:
    for display in (PlainProgress(), RichProgress()):
        emit([display], iter([started()]))
        for _ in range(2):
            display.on_exception(TRAINER, MODULE, ValueError("no"))
        assert capsys.readouterr().err.count("failed") == 1


def test_rich_progress_leaves_the_last_picture(capsys: pytest.CaptureFixture[str]) -> None:
    emit([RichProgress()], request_events())
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("tasks 6/6", "blocks 3/3", "frames 24/24", "first frame", "request 0 finished"):
        assert text in err


def printed(state: ProgressState) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(picture(state, torch.device("cpu")))
    return stream.getvalue()


def test_rich_picture_half_way() -> None:
    clock = Clock()
    state = ProgressState(started(), clock)
    count(state, clock, 30.0, range(1))
    entering = next(block_events(1))
    assert isinstance(entering, TaskDone)
    state.update(entering)
    text = printed(state)
    for part in ("tasks 3/6", "blocks 1/3", "frames 8/24", "elapsed 0:01:00", "left 0:01:00"):
        assert part in text
    assert strip(state).plain == "block 0 █▄·"


def test_rich_picture_of_an_endless_video() -> None:
    clock = Clock()
    state = ProgressState(started(endless=True), clock)
    count(state, clock, 1.0, range(30))
    text = printed(state)
    assert re.search(r"tasks 60 +blocks 30 +frames 240\b", text)
    assert "left -:--:--" in text
    assert strip(state).plain == "block 18 " + "█" * 12


@pytest.mark.parametrize(
    ("kind", "terminal", "expected"),
    [
        ("auto", True, RichProgress),
        ("auto", False, PlainProgress),
        ("rich", False, RichProgress),
        ("plain", True, PlainProgress),
        ("none", True, VideoHooks),
    ],
)
def test_progress_by_name(
    monkeypatch: pytest.MonkeyPatch, kind: Any, terminal: bool, expected: type[VideoHooks]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert type(progress_callback(kind)) is expected


def test_no_progress_prints_nothing(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    report = ReportWriter(folder, Timings(), "none")
    emit([progress_callback("none"), report], request_events())
    report.on_predict_end(TRAINER, MODULE)
    assert capsys.readouterr() == ("", "")


# ReportWriter


def test_report_of_a_finished_run(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    timings = Timings()
    with timings.part("load"):
        pass
    report = ReportWriter(folder, timings)
    callbacks = [VideoWriter().bind(folder, timings), report]
    emit(callbacks, iter([started()]))
    assert read_report(folder)["exit_reason"] is None
    emit(callbacks, request_events(0))
    emit(callbacks, request_events(1, blocks=1))
    report.on_predict_end(TRAINER, MODULE)
    content = read_report(folder)
    assert content["exit_reason"] == "finished"
    assert content["error"] is None
    assert content["frames"] == 4 * FRAMES_PER_BLOCK
    assert list(content["parts"]) == ["load", "write"]
    assert content["parts"]["write"] > 0
    assert content["memory"]["peak_resident_bytes"] > 10e6
    assert content["memory"]["peak_anonymous_bytes"] > 5e6
    assert content["memory"]["peak_anonymous_bytes"] < content["memory"]["peak_resident_bytes"]
    assert content["memory"]["peak_device_bytes"] is None
    assert content["format"] == 1
    assert content["device"] == "cpu"
    assert content["versions"]["torch"] == torch.__version__
    assert set(content["versions"]) >= {"longtake", "lightning", "diffusers", "python", "platform"}
    second = content["requests"][-1]
    expected = {
        "index": 1,
        "exit_reason": "finished",
        "frames": 8,
        "frames_asked_for": 24,
        "blocks": 1,
        "tasks": 2,
        "steps": 2,
        "height": 32,
        "width": 48,
        "fps": 8,
        "seed": 7,
    }
    assert second | expected == second
    assert 0 <= second["first_frame_seconds"] <= second["seconds"] <= content["seconds"]
    assert second["frames_per_second"] > 0
    (line,) = plain_lines(capsys.readouterr().err)
    assert line["event"] == "summary"
    assert line["reason"] == "finished"
    assert line["frames"] == "32"
    assert float(line["write_seconds"]) == content["parts"]["write"]


def test_report_of_a_stopped_run(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    report = ReportWriter(folder, Timings(), "rich")
    emit([report], request_events(blocks=2, reason=ExitReason.STOPPED))
    report.on_predict_end(TRAINER, MODULE)
    assert read_report(folder)["exit_reason"] == "stopped"
    assert "stopped: 16 video frames" in capsys.readouterr().err


@pytest.mark.parametrize("told", [True, False], ids=["request-ended", "between"])
def test_report_of_a_failed_run(folder: RunFolder, told: bool) -> None:
    report = ReportWriter(folder, Timings())
    events = list(request_events(blocks=1, reason=ExitReason.FAILED))
    emit([report], iter(events if told else events[:-1]))
    report.on_exception(TRAINER, MODULE, RuntimeError("out of luck"))
    content = read_report(folder)
    assert content["exit_reason"] == content["requests"][0]["exit_reason"] == "failed"
    assert content["error"] == "RuntimeError: out of luck"
    assert content["frames"] == FRAMES_PER_BLOCK


def test_one_rank_reports_an_error_before_the_first_request(folder: RunFolder) -> None:
    other = cast(pl.Trainer, SimpleNamespace(is_global_zero=False))
    ReportWriter(folder, Timings()).on_exception(other, MODULE, ValueError("no weights"))
    assert not (folder.path / "report.json").exists()
    ReportWriter(folder, Timings()).on_exception(TRAINER, MODULE, ValueError("no weights"))
    content = read_report(folder)
    assert (content["exit_reason"], content["error"]) == ("failed", "ValueError: no weights")
    assert content["requests"] == []


def test_a_rank_without_output_leaves_the_report_alone(folder: RunFolder) -> None:
    owner = ReportWriter(folder, Timings())
    emit([owner], request_events(blocks=1))
    before = read_report(folder)
    idle = ReportWriter(folder, Timings())
    idle.on_predict_end(TRAINER, MODULE)
    idle.on_exception(TRAINER, MODULE, ValueError("the other rank is gone"))
    assert read_report(folder) == before
