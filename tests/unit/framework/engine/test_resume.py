"""A run that died goes on where it stood: from any moment, past what is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from longtake.framework import (
    Engine,
    Event,
    FramesDecoded,
    GenerationConfig,
    PromptAt,
    Request,
    RequestStarted,
)
from longtake.framework.engine.interval import SHORTEST, Interval
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import KeepSnapshots, RunKeeper
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.snapshot_files import FOLDERS, SnapshotFiles
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice, TaskDone
from longtake.testing.tiny.base import tiny_wan_folder

STEPS = 4
VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=61, height=32, width=48)


@pytest.fixture(scope="module")
def generation_config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    folder = tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny")
    return GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=STEPS, dtype="float32"
    )


@pytest.fixture(scope="module")
def undisturbed(generation_config: GenerationConfig) -> Tensor:
    return frames_of(list(Engine(generation_config, SingleDevice()).generate(VIDEO)))


def frames_of(events: list[Event]) -> Tensor:
    return torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])


def run(
    generation_config: GenerationConfig,
    folder: Path,
    each: Callable[[int], None] = lambda tasks: None,
    *,
    resumes: bool = False,
    said: list[str] | None = None,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = 1e-9,
    keep_snapshots: KeepSnapshots = "none",
) -> list[Event]:
    """Make the video in a run folder; call ``each`` after every task with their number."""
    warn = said.append if said is not None else pytest.fail
    keeper = RunKeeper(
        RunFolder(folder), seconds, resumes=resumes, keep_snapshots=keep_snapshots, warn=warn
    )
    engine = Engine(generation_config, SingleDevice())
    engine.keep(keeper)
    events: list[Event] = []
    for event in engine.generate(VIDEO, stop):
        if isinstance(event, BlockDone):
            Journal(folder / "0000").append(event.block, event.frames, event.latents)
        events.append(event)
        if isinstance(event, TaskDone):
            each(sum(isinstance(one, TaskDone) for one in events))
    return events


def killed(generation_config: GenerationConfig, folder: Path, *after: int) -> list[Path]:
    """Return what a run has left on the disk at some moments, as if it had died there."""
    left: list[Path] = []

    def copy(tasks: int) -> None:
        if tasks in after:
            left.append(folder.with_name(f"{folder.name}-{tasks}"))
            # A file may get its name meanwhile.
            ignore = shutil.ignore_patterns(".*")
            if folder.exists():
                shutil.copytree(folder, left[-1], ignore=ignore)

    run(generation_config, folder, copy)
    return left


def test_a_run_goes_on_from_where_it_was_killed(
    generation_config: GenerationConfig, undisturbed: Tensor, tmp_path: Path
) -> None:
    for tasks, left in zip(
        (1, 5, 9, 14, 19), killed(generation_config, tmp_path / "run", 1, 5, 9, 14, 19), strict=True
    ):
        events = run(generation_config, left, resumes=True)
        done = sum(isinstance(event, TaskDone) for event in events)
        started = next(event for event in events if isinstance(event, RequestStarted))
        assert started.tasks is not None
        assert done == started.tasks - started.tasks_before
        # An iteration of at most 4 tasks is lost, and the snapshot that was being written.
        assert tasks - 9 <= started.tasks_before <= tasks
        assert torch.equal(frames_of(events), undisturbed), f"killed after {tasks} tasks"


def test_a_run_that_was_stopped_loses_nothing(
    generation_config: GenerationConfig, undisturbed: Tensor, tmp_path: Path
) -> None:
    asked = iter([False] * 8 + [True])
    first = run(generation_config, tmp_path, stop=lambda: next(asked))
    done = sum(isinstance(event, TaskDone) for event in first)
    second = run(generation_config, tmp_path, resumes=True)
    started = next(event for event in second if isinstance(event, RequestStarted))
    assert started.tasks_before == done > 0
    assert torch.equal(frames_of(second), undisturbed)


def test_a_damaged_snapshot_or_block_costs_what_came_after_it(
    generation_config: GenerationConfig, undisturbed: Tensor, tmp_path: Path
) -> None:
    (left,) = killed(generation_config, tmp_path / "run", 18)
    files = SnapshotFiles(left / "0000")
    *_, before, last = files.cuts()
    snapshot = files.folder / f"{last:08d}-0000.safetensors"
    block = left / "0000" / "latents" / "00000.safetensors"
    for number, (path, torn, cut) in enumerate(
        [(snapshot, False, before), (snapshot, True, before), (block, False, 0)]
    ):
        copy = shutil.copytree(left, tmp_path / f"damaged-{number}")
        damaged = copy / path.relative_to(left)
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content[: len(content) // 2] if torn else content)
        said: list[str] = []
        events = run(generation_config, copy, resumes=True, said=said)
        assert damaged.name in said[0]
        assert ("cannot be read" if torn else "is damaged") in said[0]
        assert torch.equal(frames_of(events), undisturbed)
        started = next(event for event in events if isinstance(event, RequestStarted))
        assert (started.tasks_before == 0) == (cut == 0)


def test_a_snapshot_that_is_to_stay_stays_though_the_run_died_as_soon_as_it_was_saved(
    generation_config: GenerationConfig, undisturbed: Tensor, tmp_path: Path
) -> None:
    with mock.patch.object(SnapshotFiles, "link"):  # the run dies before
        run(generation_config, tmp_path, seconds=1e9, keep_snapshots="extend")
    saved, kept = (SnapshotFiles(tmp_path / "0000", name) for name in FOLDERS)
    assert not kept.cuts()
    again = run(generation_config, tmp_path, resumes=True, seconds=1e9, keep_snapshots="extend")
    started = next(event for event in again if isinstance(event, RequestStarted))
    (edge,) = kept.cuts()
    assert edge in saved.cuts()
    assert started.tasks_before >= edge > 0
    kept.check(edge)
    assert torch.equal(frames_of(again), undisturbed)


def test_a_finished_request_is_not_made_again(
    generation_config: GenerationConfig, tmp_path: Path
) -> None:
    RunFolder(tmp_path).write_json(
        "report.json",
        {"requests": [{"index": 0, "exit_reason": "finished", "frames_asked_for": 61}]},
    )
    assert run(generation_config, tmp_path, resumes=True) == []


def test_only_the_last_two_snapshots_are_kept(
    generation_config: GenerationConfig, tmp_path: Path
) -> None:
    run(generation_config, tmp_path)
    files = SnapshotFiles(tmp_path / "0000")
    assert len(files.cuts()) == 2
    files.clear()
    assert not files.folder.exists()


def test_the_interval_follows_from_what_snapshots_cost() -> None:
    auto = Interval("auto", stages=4)
    assert auto.tasks(None, 0.0, 0.0) == 1, "one task is enough to find out"
    assert auto.tasks(0.5, 0.0, 0.0) == 300, "3 tasks of idle stages in 300"
    assert auto.tasks(0.5, 2.0, 0.0) == 700
    assert auto.tasks(0.5, 0.0, 100.0) == 4000, "twenty times as long as it takes to write"
    assert Interval("auto", stages=1).tasks(0.5, 0.0, 0.0) == SHORTEST / 0.5
    assert Interval(30.0, stages=4).tasks(0.5, 2.0, 0.0) == 60
    assert Interval(1e-9, stages=4).tasks(0.5, 2.0, 0.0) == 1
    assert Interval("never", stages=1).tasks(None, 0.0, 0.0) is None


def test_a_request_of_another_number_is_in_a_folder_of_its_own(
    generation_config: GenerationConfig, tmp_path: Path
) -> None:
    keeper = RunKeeper(RunFolder(tmp_path), resumes=True)
    assert keeper.point(replace(VIDEO, index=3), lambda: iter(())) == 0
    assert list(tmp_path.iterdir()) == []
