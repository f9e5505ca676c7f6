"""Methods that cannot be, refused before a run; and what is kept for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from longtake.caches import (
    AnchorKV,
    FeatureCache,
    NextBlockKV,
    NoCache,
    RollingKV,
    SameStepKV,
    Unread,
    forwards,
    settled_forwards,
    unread_entries,
)
from longtake.errors import ConfigurationError
from longtake.framework.main import main
from longtake.models import BackboneSpec
from longtake.plan.check.methods import check_method, first_forwards, unread
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    RollingWindow,
)
from longtake.strategies import Workload
from longtake.task import FrameRange, Task, Video
from longtake.testing.tiny.base import TinyCase, tiny_wan_folder, tiny_wan_spec
from longtake.testing.tiny.cogvideox import tiny_cogvideox_spec
from longtake.testing.tiny.ltx import tiny_ltx_spec
from longtake.testing.tiny.mochi import tiny_mochi_spec

MOVED = RollingKV(6, 1, 7, moved_sinks=True)
CLIP_SPEC, FRAME_SPEC = tiny_wan_spec(), tiny_wan_spec().with_frame_levels()


def workload(
    scheduler: BlockScheduler,
    cache: FeatureCache,
    spec: BackboneSpec = CLIP_SPEC,
    *,
    latent_frames: int | None = 40,
    steps: int = 4,
    prompt_changes: tuple[int, ...] = (),
) -> Workload:
    case = TinyCase(scheduler=scheduler, cache=cache, latent_frames=latent_frames, steps=steps)
    return replace(case.workload, spec=spec, prompt_changes=prompt_changes)


class Backwards(BlockScheduler):
    """Blocks whose windows see a step that is not behind them."""

    inner = FifoQueue(3, 2)

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        return self.inner.blocks(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        for task in self.inner.tasks(video):
            seen = tuple(replace(one, version=one.version + 1) for one in task.sees)
            yield replace(task, sees=seen)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return self.inner.blocks_in_flight(video)


def test_a_wrong_schedule_is_refused_with_its_task() -> None:
    wrong = workload(Backwards(), NextBlockKV())
    with pytest.raises(
        ConfigurationError,
        match=r"task 1 \(block 1, step 0\) of Backwards sees latent frame 3 with 2 steps behind "
        r"it, but it has 1 \(block 0\): the schedule is wrong",
    ):
        check_method(wrong)


def test_clean_passes_of_a_model_with_two_experts_are_refused() -> None:
    two = tiny_wan_spec(experts=2)
    for scheduler in (Autoregressive(2), CascadeQueue(2)):
        with pytest.raises(ConfigurationError, match=r"tiny Wan has 2 experts.*FifoQueue"):
            check_method(workload(scheduler, RollingKV(6), two))
    check_method(workload(FifoQueue(3, 2), SameStepKV(), two))


@pytest.mark.parametrize(
    "spec", [tiny_cogvideox_spec(), tiny_ltx_spec(), tiny_mochi_spec()], ids=lambda one: one.name
)
@pytest.mark.parametrize("frames", [6, 21])
def test_kept_keys_that_move_are_refused_where_positions_cannot(
    spec: BackboneSpec, frames: int
) -> None:
    """Also where they move only when the cache is full, long after the queue is."""
    moved = RollingKV(frames, 2, moved_sinks=True)
    message = (
        rf"sees latent frame 0 at position \d+, but kept keys of {spec.name} cannot move along "
        r"time; set moved_sinks: false"
    )
    for length in (None, 60):
        with pytest.raises(ConfigurationError, match=message):
            check_method(workload(Autoregressive(2), moved, spec, latent_frames=length))
        check_method(workload(Autoregressive(2), RollingKV(frames, 2), spec, latent_frames=length))
    check_method(workload(Autoregressive(2), moved))


@pytest.mark.parametrize(
    ("scheduler", "cache"),
    [
        (RollingWindow(1), MOVED),
        (FrameQueue(2, 2), NoCache()),
        (FrameQueue(4, 1, lookahead=False), NoCache()),
        (Extend(4, 2), NoCache()),
        (Autoregressive(2), NoCache()),
        (DiffusionForcing(2, 1, 8), NoCache()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_several_levels_in_a_window_are_refused_with_the_option_that_allows_them(
    scheduler: BlockScheduler, cache: FeatureCache
) -> None:
    message = r"tiny Wan takes one timestep for all frames of a window; set model\.timesteps_per"
    for length in (None, 20):
        with pytest.raises(ConfigurationError, match=message):
            check_method(workload(scheduler, cache, latent_frames=length))
        check_method(workload(scheduler, cache, FRAME_SPEC, latent_frames=length))


def test_a_cache_that_shows_nothing_of_what_is_seen_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the cache SameStepKV keeps nothing of them"):
        check_method(workload(Extend(4, 2), SameStepKV(), FRAME_SPEC))


@pytest.mark.parametrize(
    ("scheduler", "cache"),
    [
        (FifoQueue(3, 2), NextBlockKV()),
        (FifoQueue(3, 2, stride=2), SameStepKV()),
        (FifoQueue(3, 2), AnchorKV(SameStepKV(), 2)),
        (Autoregressive(2), RollingKV(6, 2)),
        (Autoregressive(3), RollingKV(None)),
        (CascadeQueue(2), RollingKV(8)),
        (RollingWindow(1), MOVED),
        (DiffusionForcing(2, 2, 6), RollingKV(6)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_methods_that_fit_keep_nothing_in_vain(
    scheduler: BlockScheduler, cache: FeatureCache
) -> None:
    for length in (None, 20):
        assert unread(workload(scheduler, cache, latent_frames=length)) == []


def test_frames_that_a_block_leaves_and_none_reads_are_counted_by_hand() -> None:
    """Of each block of 3 frames the next one sees the last; at most two others wait with it."""
    tasks = list(Autoregressive(3).tasks(Video(14, 4)))
    # 5 blocks, the last one of 2 frames and without a clean pass, which sees 2 of the fourth.
    assert unread_entries(RollingKV(4), tasks) == Unread(frames=7, kept=12, peak=2, passes=0)


def test_a_pass_that_a_change_of_the_prompt_makes_anew_is_one_for_nothing() -> None:
    tasks = list(Autoregressive(2).tasks(Video(8, 3, (4,))))
    # Block 1's clean pass is replaced by the recache before block 2, block 0's has been read.
    assert unread_entries(RollingKV(None), tasks) == Unread(frames=2, kept=10, peak=2, passes=1)


def test_the_warning_says_what_it_costs() -> None:
    (warning,) = unread(workload(Autoregressive(3), RollingKV(4), latent_frames=14))
    assert warning == (
        "of the keys and values of 12 latent frames that RollingKV(frames=4, sinks=0, "
        "buffer=None, moved_sinks=False, keep_sinks=True) keeps in the first 24 tasks, those of "
        "7 are never read: at most 2 at once, 0.00 GiB in all layers."
    )
    anew = workload(Autoregressive(2), RollingKV(None), latent_frames=8, prompt_changes=(4,))
    assert unread(anew)[0].endswith("in all layers; forwards that leave nothing else: 1.")


def test_a_schedule_is_played_until_the_cache_is_full() -> None:
    """However few blocks are in flight."""
    tasks, whole = first_forwards(workload(Autoregressive(2), RollingKV(21), latent_frames=None))
    assert not whole
    assert tasks[-1].task.block >= 21 // 2 + 4
    tasks, whole = first_forwards(workload(Autoregressive(2), RollingKV(21), latent_frames=5))
    assert whole
    assert [one.task for one in tasks] == list(Autoregressive(2).tasks(Video(5, 4)))
    endless = Autoregressive(2).tasks(Video(None, 4))
    played, whole = settled_forwards(forwards(endless, RollingKV(None)), blocks=5, most=200)
    assert (len(played) <= 232, whole) == (True, False)


def test_plan_and_run_warn_of_what_is_kept_in_vain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_wan_folder(tmp_path / "model", sampler="FlowMatchEulerDiscreteScheduler")
    config = tmp_path / "few.yaml"
    config.write_text(f"""\
trainer: {{accelerator: cpu, devices: 1}}
model:
  pipeline: {folder.path}
  steps: 2
  scheduler: {{class_path: Autoregressive, init_args: {{block_frames: 3}}}}
  cache: {{class_path: RollingKV, init_args: {{frames: 4}}}}
data: {{prompts: [bird], num_frames: 33, height: 32, width: 48}}
output: {tmp_path / "out"}
""")
    main(["plan", "--config", str(config)])
    out = capsys.readouterr().err
    (line,) = [line for line in out.splitlines() if "are never read" in line]
    assert line.startswith("longtake: warning: of the keys and values of 6 latent frames that")
    main(["predict", "--config", str(config), "--progress", "plain"])
    assert line in capsys.readouterr().err.splitlines()
