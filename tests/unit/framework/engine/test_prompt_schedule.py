"""Where a prompt schedule changes, in latent frames, as the conditions of blocks see it."""

from __future__ import annotations

import random

import pytest

from longtake.framework.engine.prompt_schedule import PromptSchedule, prompt_changes
from longtake.framework.engine.request import PromptAt, Request
from longtake.models import Compression
from longtake.task import FrameRange

WAN = Compression(temporal=4, spatial=8)


def request_of(*prompts: tuple[float, str], fps: int = 8) -> Request:
    schedule = tuple(PromptAt(at=at, text=text) for at, text in prompts)
    return Request(prompts=schedule, num_frames=None, height=32, width=32, fps=fps)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        # At 8 frames per second latent frame n > 0 begins at (4 n - 3) / 8 s: 0.125, 0.625, 1.125.
        (((0, "a"),), ()),
        (((0, "a"), (0.125, "b")), (1,)),
        (((0, "a"), (0.126, "b")), (2,)),
        (((0, "a"), (0.01, "b")), (1,)),
        (((0, "a"), (1, "b"), (10, "c")), (3, 21)),
        (((0, "a"), (1, "b"), (1.1, "c")), (3,)),
        (((0, "a"), (1, "b"), (1.1, "a")), ()),
        (((0, "a"), (1, "a"), (2, "b"), (3, "b")), (5,)),
        (((0, "a"), (1, "b"), (2, "a")), (3, 5)),
    ],
)
def test_changes_are_the_first_frames_at_or_after_their_times(
    prompts: tuple[tuple[float, str], ...], expected: tuple[int, ...]
) -> None:
    assert prompt_changes(request_of(*prompts), WAN) == expected


@pytest.mark.parametrize("seed", range(20))
def test_blocks_change_their_prompts_there_and_nowhere_else(seed: int) -> None:
    drawn = random.Random(seed)
    times = sorted({0.0, *(drawn.choice([drawn.uniform(0, 9), drawn.randrange(1, 90) / 10])
                           for _ in range(drawn.randrange(6)))})  # fmt: skip
    compression = Compression(temporal=drawn.choice([1, 4, 6, 8]), spatial=8)
    request = request_of(
        *((at, drawn.choice("abc")) for at in times), fps=drawn.choice([8, 12, 16, 24, 30])
    )
    schedule = PromptSchedule(request, lambda text, _: text, compression)
    seen = [schedule.condition(FrameRange(n, n + 1), range(1)) for n in range(400)]
    expected = tuple(n for n in range(1, 400) if seen[n] != seen[n - 1])
    assert prompt_changes(request, compression) == expected
