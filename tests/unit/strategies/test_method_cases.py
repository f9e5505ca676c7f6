"""Equal to published long-video methods: schedules as data, and the latents of recorded runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.strategies.method_cases import MethodCase, folders, kind_of

from longtake.caches import Forward
from longtake.strategies import BlockDone, Layout, SingleDevice

TOLERANCE = 1e-4  # max abs, fp32: another order of summation alone gives about 2e-5
KINDS = ("autoregressive", "rolling-window", "windows", "queue")

causal = pytest.mark.parametrize(
    "folder", folders("autoregressive", "rolling-window"), ids=lambda folder: folder.name
)
queues = pytest.mark.parametrize("folder", folders("queue"), ids=lambda folder: folder.name)
windows = pytest.mark.parametrize("folder", folders("windows"), ids=lambda folder: folder.name)
every = pytest.mark.parametrize("folder", folders(*KINDS), ids=lambda folder: folder.name)


@pytest.mark.skipif("LONGTAKE_REFERENCE" in os.environ, reason="other cases are asked for")
def test_there_are_cases_of_every_kind() -> None:
    assert {kind_of(folder) for folder in folders(*KINDS)} == set(KINDS)


@causal
def test_a_causal_methods_forwards_are_those_recorded(folder: Path) -> None:
    """Frames, positions, levels, reads, writes and drops; passes that nobody reads aside."""
    case = MethodCase(folder)
    recorded, ours = _needed(case.data["forwards"]), _read(case.forwards())
    assert len(ours) == len(recorded)
    number = {forward.task.index: one["index"] for forward, one in zip(ours, recorded, strict=True)}
    for forward, one in zip(ours, recorded, strict=True):
        where, window = f"forward {one['index']}", forward.window
        attending = one.get("attends_own")
        # A recache forwards frames whose keys nobody sees: left out, which changes nothing.
        frames = [one["frames"][i] for i in attending] if attending else one["frames"]
        assert list(window.frames) == frames, where
        places = dict(zip(one["frames"], one["positions"], strict=True))
        assert list(window.positions) == [places[frame] for frame in frames], where
        told = dict(zip(one["frames"], one["timesteps"], strict=True))
        assert _levels(case, forward) == pytest.approx([told[f] for f in frames]), where
        reads = [[r.entry.frame, r.position, number[r.entry.index]] for r in window.reads]
        assert sorted(reads) == sorted(one["reads"]), where
        kept = [entry.frame for entry, _ in window.keeps]
        assert kept == [frame for frame in one["writes"] if frame in frames], where
        if one is not recorded[-1]:  # the record ends with all entries dropped
            drops = [[e.frame, number[e.index]] for e in window.drops if e.index in number]
            wanted = [drop for drop in one["drops"] if drop[1] in number.values()]
            assert sorted(drops) == sorted(wanted), where
        steps = {str(run.block): run.step + 1 for run in forward.task.runs if run.advances}
        recorded_steps = {block: to["version"] for block, to in one.get("advance", {}).items()}
        assert steps == recorded_steps, where
        prompt = case.prompt_at(forward.task.prompt.start)
        assert one["prompt"] in (f"prompt_embeds.{prompt}", "prompt_embeds"), where


@queues
def test_a_queues_forwards_are_those_recorded(folder: Path) -> None:
    """Frames, timestep indices and updates of every iteration, and what comes out."""
    case = MethodCase(folder)
    rest = iter(case.forwards())
    for iteration in case.data["iterations"]:
        emitted = []
        for one in iteration["forwards"]:
            forward, first = next(rest), one["slots"][0]
            # What the published queue calls None are copies of the clip's first frame in front.
            frames = zip(one["frames"], forward.window.frames, strict=True)
            assert all(a is None or a == b for a, b in frames)
            steps = case.video.steps
            assert _steps(forward) == [steps - 1 - index for index in one["timestep_index"]]
            updates = [one["frames"][slot - first] for slot in range(*one["updates"])]
            assert list(forward.task.own) == updates
            emitted += [run.block_frames.start for run in forward.task.runs if run.last_step]
        assert emitted == [iteration["output_frame"]]
        assert (iteration["output_frame"] >= 0) == iteration["kept"]
    assert not list(rest)


@queues
def test_a_queue_starts_from_the_recorded_copies(folder: Path) -> None:
    case = MethodCase(folder)
    clip, *enters = case.forwards()[0].task.enters
    steps, front = case.video.steps, len(enters) - case.video.steps
    found = [(enter.source or ())[0] - clip.frames.start for enter in enters]
    assert found == [one["clip_frame"] for one in case.data["initial"]]
    levels = [one["timestep_index"] for one in case.data["initial"]]
    assert [steps - 1 - (enter.level or 0) for enter in enters] == levels
    assert [enter.version == steps for enter in enters] == [True] * front + [False] * steps


@windows
def test_windows_and_weights_are_those_recorded(folder: Path) -> None:
    case = MethodCase(folder)
    rest = iter(case.forwards())
    for one in case.data["forwards"]:
        total = [0.0] * case.data["latents_shape"][2]
        for window, weights in zip(one["windows"], one["weights"], strict=True):
            for frame, weight in zip(window, weights, strict=True):
                total[frame] += weight
        for window, weights in zip(one["windows"], one["weights"], strict=True):
            (run,) = next(rest).task.runs
            assert (run.step, list(run.frames)) == (one["step"], window)
            assert run.positions == tuple(range(len(window)))
            shares = [weight / total[f] for f, weight in zip(window, weights, strict=True)]
            assert run.weights == pytest.approx(shares, abs=4e-8)
    assert not list(rest)


@every
def test_a_method_gives_the_recorded_latents(folder: Path) -> None:
    case = MethodCase(folder)
    with torch.no_grad():
        work = case.denoising()
        layout = Layout.serial(work.backbone.spec.layers, len(work.guidance.branches))
        events = SingleDevice().run(work, layout, 0)
        blocks = [event.latents for event in events if isinstance(event, BlockDone)]
    found = torch.cat(blocks, dim=2)
    torch.testing.assert_close(found, case.expected, rtol=0, atol=TOLERANCE)


def _needed(recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out passes whose entries nobody reads: the first ones of a window, the last one."""
    read = {read[2] for one in recorded for read in one["reads"]}
    return [one for one in recorded if "advance" in one or one["index"] in read]


def _read(ours: list[Forward]) -> list[Forward]:
    read = {read.entry.index for forward in ours for read in forward.window.reads}
    return [one for one in ours if one.task.runs or one.task.index in read]


def _levels(case: MethodCase, forward: Forward) -> list[float]:
    """Return what the model is told for each frame of a window."""
    timesteps = (*case.sampler.timesteps, 0.0)
    return [timesteps[step] for step in _steps(forward)]


def _steps(forward: Forward) -> list[int]:
    """Return the step whose timestep each frame of a window is told; all steps for clean ones."""
    task, steps = forward.task, []
    for frame in forward.window.frames:
        run, seen = task.run_of(frame), task.seen(frame)
        if run is not None:
            steps.append(run.step)
        elif seen is not None:
            steps.append(seen.version if seen.told is None else seen.told)
        else:
            steps.append(task.steps)
    return steps
