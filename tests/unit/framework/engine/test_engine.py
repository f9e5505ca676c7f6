"""The engine: what happens in which order, what is done once, where it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.caches import SameStepKV
from longtake.framework import (
    Engine,
    Event,
    ExitReason,
    FramesDecoded,
    GenerationConfig,
    PromptAt,
    Request,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.engine.prompt_schedule import PromptSchedule
from longtake.models import Compression
from longtake.models.wan import WanBackbone, WanFamily
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice, TaskDone
from longtake.task import FrameRange
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder

STEPS = 3
VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=37, height=32, width=48)


@pytest.fixture(scope="module")
def generation_config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    folder = tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny")
    return GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=STEPS, dtype="float32"
    )


def blocks_of(events: Iterator[Event] | list[Event]) -> list[torch.Tensor]:
    return [event.latents for event in events if isinstance(event, BlockDone)]


def test_a_video_is_told_from_start_to_end(generation_config: GenerationConfig) -> None:
    events = list(Engine(generation_config, SingleDevice()).generate(VIDEO))
    first, last = events[0], events[-1]
    assert first == RequestStarted(
        request=VIDEO, blocks=3, steps=STEPS, tasks=3 * STEPS, video_frames=37
    )
    assert last == RequestEnded(VIDEO, ExitReason.FINISHED)
    assert sum(isinstance(event, TaskDone) for event in events) == 3 * STEPS
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    assert torch.cat(frames).shape == (37, 32, 48, 3)
    assert {part.dtype for part in frames} == {torch.uint8}


def test_decoding_is_never_more_than_two_blocks_behind(
    generation_config: GenerationConfig,
) -> None:
    video = replace(VIDEO, num_frames=1 + 4 * 32)
    stops: list[int] = []
    frames = 0
    for event in Engine(generation_config, SingleDevice()).generate(video):
        match event:
            case BlockDone(frames=latent_frames):
                if len(stops) > 2:  # this block is not taken yet, and two more may be open
                    assert frames >= 1 + 4 * (stops[-3] - 1)
                stops.append(latent_frames.stop)
            case FramesDecoded(frames=more):
                frames += len(more)
    assert (len(stops), frames) == (11, 1 + 4 * 32)


@pytest.mark.parametrize("frames", [1, 5, 9, 21, 33])
def test_exactly_the_frames_that_were_asked_for(
    generation_config: GenerationConfig, frames: int
) -> None:
    events = Engine(generation_config, SingleDevice()).generate(replace(VIDEO, num_frames=frames))
    assert sum(len(event.frames) for event in events if isinstance(event, FramesDecoded)) == frames


def test_an_endless_video_goes_on_until_it_is_stopped(generation_config: GenerationConfig) -> None:
    events: list[Event] = []
    endless = replace(VIDEO, num_frames=None)
    stop = lambda: len(blocks_of(events)) == 4  # noqa: E731
    for event in Engine(generation_config, SingleDevice()).generate(endless, stop):
        events.append(event)
    assert events[-1] == RequestEnded(endless, ExitReason.STOPPED)
    frames = sum(len(event.frames) for event in events if isinstance(event, FramesDecoded))
    assert frames == 1 + 4 * (5 + 3 + 3 + 3 - 1), "every block that was finished is decoded"


def test_a_video_that_is_all_made_is_finished_whatever_stop_says(
    generation_config: GenerationConfig,
) -> None:
    events: list[Event] = []
    stop = lambda: len(blocks_of(events)) == 3  # noqa: E731
    for event in Engine(generation_config, SingleDevice()).generate(VIDEO, stop):
        events.append(event)
    assert events[-1] == RequestEnded(VIDEO, ExitReason.FINISHED)


def test_a_block_whose_last_task_has_run_is_not_lost_to_a_stop(
    generation_config: GenerationConfig,
) -> None:
    events: list[Event] = []
    stop = lambda: any(isinstance(e, TaskDone) and e.task.finished for e in events)  # noqa: E731
    for event in Engine(generation_config, SingleDevice()).generate(VIDEO, stop):
        events.append(event)
    assert len(blocks_of(events)) == 1
    assert events[-1] == RequestEnded(VIDEO, ExitReason.STOPPED)


def test_nothing_is_begun_once_it_is_to_stop(generation_config: GenerationConfig) -> None:
    assert list(Engine(generation_config, SingleDevice()).generate(VIDEO, lambda: True)) == []


def test_the_same_seed_gives_the_same_video_and_another_one_another(
    generation_config: GenerationConfig,
) -> None:
    first = blocks_of(Engine(generation_config, SingleDevice()).generate(VIDEO))
    torch.manual_seed(99)
    again = blocks_of(Engine(generation_config, SingleDevice()).generate(VIDEO))
    other = blocks_of(Engine(generation_config, SingleDevice()).generate(replace(VIDEO, seed=1)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_prompts_and_steps_are_conditioned_once_whatever_the_length(
    generation_config: GenerationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)

    counted(WanBackbone, "condition_text")
    counted(WanBackbone, "condition_step")
    counted(WanFamily, "encode_text")
    counted(WanFamily, "load_backbone")
    engine = Engine(generation_config, SingleDevice())
    two = replace(VIDEO, prompts=(PromptAt(text="bird"), PromptAt(at=1, text="sea")), index=1)
    engine.check([VIDEO, two])
    assert calls.pop("load_backbone") == 1, "on the meta device, for all that is counted"
    calls.clear()
    engine.load([VIDEO, two])
    for request in (VIDEO, two):
        for _ in engine.generate(request):
            pass
    assert calls == {
        "condition_text": 1 + 2, "condition_step": 2 * STEPS, "encode_text": 1, "load_backbone": 1
    }  # fmt: skip


def test_a_prompt_holds_from_its_second_on_and_is_dropped_when_it_is_over() -> None:
    made: list[str] = []

    def make(text: str, branches: range) -> str:
        made.append(text)
        return text

    request = replace(VIDEO, prompts=(PromptAt(text="a"), PromptAt(at=1, text="b")), fps=8)
    schedule = PromptSchedule(request, make, Compression(temporal=4, spatial=8))
    rows = range(2)
    # Latent frame n begins at video frame 4 n - 3: frame 2 at 0.6 s, frame 3 at 1.1 s.
    assert [schedule.condition(FrameRange(n, n + 1), rows) for n in (0, 2, 3, 9)] == list("aabb")
    assert made == ["a", "b"]
    schedule.finish(FrameRange(0, 3))
    schedule.condition(FrameRange(1, 2), rows)
    assert made == ["a", "b"], "still needed: block 0 belongs to its time"
    schedule.finish(FrameRange(3, 6))
    schedule.condition(FrameRange(4, 5), rows)
    assert made == ["a", "b"]
    schedule.condition(FrameRange(0, 1), rows)
    assert made == ["a", "b", "a"], "dropped with its last block"


def test_a_prompt_change_alters_only_what_comes_after(generation_config: GenerationConfig) -> None:
    generation_config = replace(
        generation_config, cache=SameStepKV(), scheduler=FifoQueue(3, 2, stride=STEPS)
    )
    later = replace(VIDEO, prompts=(*VIDEO.prompts, PromptAt(at=1.5, text="sea")))
    plain = blocks_of(Engine(generation_config, SingleDevice()).generate(VIDEO))
    changed = blocks_of(Engine(generation_config, SingleDevice()).generate(later))
    # One block in flight: no block sees a later one. Block 2 begins at video frame 29, 1.8 s.
    assert [torch.equal(a, b) for a, b in zip(plain, changed, strict=True)] == [True, True, False]


def test_the_time_of_each_part_is_counted(generation_config: GenerationConfig) -> None:
    engine = Engine(generation_config, SingleDevice())
    list(islice(engine.generate(VIDEO), 100))
    assert set(engine.timings.seconds) == {"text", "load", "denoise", "decode"}
    assert all(seconds > 0 for seconds in engine.timings.seconds.values())


def test_text_states_do_not_depend_on_the_prompts_beside_them(
    generation_config: GenerationConfig,
) -> None:
    alone, beside = (
        Engine(generation_config, SingleDevice()),
        Engine(generation_config, SingleDevice()),
    )
    others = [
        replace(VIDEO, prompts=(PromptAt(text=text),), index=index)
        for index, text in enumerate(("a fast bird", "the blue sea", "left", "right"), start=1)
    ]
    beside.load([VIDEO, *others])
    for a, b in zip(
        blocks_of(alone.generate(VIDEO)), blocks_of(beside.generate(VIDEO)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_weights_follow_the_dtype_save_those_kept_in_fp32(
    generation_config: GenerationConfig, tmp_path: Path
) -> None:
    engine = Engine(replace(generation_config, dtype="bfloat16"), SingleDevice())
    blocks = blocks_of(engine.generate(VIDEO))
    assert {block.dtype for block in blocks} == {torch.float32}, "the sampler works in fp32"
    exact = blocks_of(Engine(generation_config, SingleDevice()).generate(VIDEO))
    error = (blocks[0] - exact[0]).abs().mean() / exact[0].abs().mean()
    assert 0 < error < 0.1, "bf16 rounds, and no more than that"


def test_a_model_with_embedded_guidance_has_one_branch_and_its_held_back_frames_come(
    tmp_path: Path,
) -> None:
    generation_config = GenerationConfig(
        pipeline=str(tiny_hunyuan_folder(tmp_path / "tiny").path),
        scheduler=FifoQueue(3, 2),
        steps=STEPS,
        guidance_scale=6.0,
        dtype="float32",
    )
    engine = Engine(generation_config, SingleDevice())
    assert (len(engine.model.guidance.branches), engine.model.guidance.embedded) == (1, 6.0)
    for stop_after in (None, 1):
        events: list[Event] = []
        stop = lambda: len(blocks_of(events)) == stop_after  # noqa: B023, E731
        for event in engine.generate(VIDEO, stop):
            events.append(event)
        blocks = torch.cat(blocks_of(events), dim=2).shape[2]
        video = torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])
        assert len(video) == Compression(temporal=4, spatial=8).video_frames(blocks)
