"""Noise levels of single frames: which the schedule fixes, and how tokens of one level are cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from longtake.caches import NoCache, forwards
from longtake.errors import ConfigurationError
from longtake.models import AnyBackbone, PromptStates
from longtake.models.layers.levels import level_runs, pieces
from longtake.models.wan import WanBackbone
from longtake.models.wan.backbone import WanStep
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.task import FrameRange, Video
from longtake.testing.contracts import FrameLevelsContract
from longtake.testing.tiny.base import tiny_prompts
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_backbone, tiny_ti2v_spec


@pytest.mark.parametrize(
    "scheduler", [FifoQueue(3, 2), FifoQueue(3, 2, 2), FullSequence()], ids=["1", "2", "whole"]
)
def test_a_task_knows_how_many_steps_each_frame_has_behind_it(scheduler: BlockScheduler) -> None:
    """As counted by running the tasks one after another."""
    done = [0] * 11
    for task in scheduler.tasks(Video(11, 4)):
        (forward,) = forwards([task], NoCache())
        known = {frame: steps for span, steps in forward.latents for frame in span.each}
        assert known == {frame: done[frame] for frame in forward.window.frames}
        for frame in task.own:
            done[frame] += 1
    assert done == [4] * 11


def test_levels_that_need_different_experts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="timestep per frame and 2 experts"):
        replace(tiny_ti2v_spec(), experts=2)


def test_frames_are_in_their_range() -> None:
    assert [frame in FrameRange(2, 4) for frame in range(1, 6)] == [False, True, True, False, False]


def test_a_model_that_knows_one_level_only_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite(FrameLevelsContract):
        def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
            return tiny_ti2v_backbone()

        def prompts(self) -> PromptStates:
            return tiny_prompts(2)

        def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
            raise NotImplementedError

        def frame_oracle(
            self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
        ) -> Tensor:
            raise NotImplementedError

    def last(_backbone: WanBackbone, steps: Sequence[WanStep], _tokens: Sequence[int]) -> WanStep:
        return steps[-1]

    monkeypatch.setattr(WanBackbone, "join_steps", last)
    with (
        torch.no_grad(),
        pytest.raises(AssertionError, match=r"join_steps\(\) does not reach frame 0"),
    ):
        Suite().test_the_timestep_of_one_frame_matters()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (range(20), [(7.0, 8), (9.0, 4), (7.0, 8)]),
        (range(5), [(7.0, 5)]),
        (range(6, 13), [(7.0, 2), (9.0, 4), (7.0, 1)]),
        (range(12, 25), [(7.0, 8)]),  # 5 text tokens behind the video tokens
        (range(4, 4), []),
    ],
)
def test_runs_of_one_level(tokens: range, expected: list[tuple[float, int]]) -> None:
    assert level_runs([7.0, 7.0, 9.0, 7.0, 7.0], 4, tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([8, 4, 8], [0, 0, 1, 2, 2]), ([6], [0]), ([2, 3], [0, 0, 1, 1, 1])],
)
def test_runs_are_cut_into_the_largest_equal_pieces(tokens: list[int], expected: list[int]) -> None:
    assert pieces(tokens) == expected
