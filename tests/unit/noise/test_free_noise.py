"""FreeNoise: the contract, the published orders, and what holds of every order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import pytest
import torch

from longtake.errors import ConfigurationError
from longtake.noise import FreeNoise, NoiseInit, NoiseSource, free_noise_order
from longtake.schedulers import FifoQueue, FullSequence
from longtake.task import FrameRange
from longtake.testing.contracts import NoiseInitContract

SOURCE = NoiseSource(seed=3, channels=2, height=3, width=4)
CASES = Path(__file__).parents[2] / "cases" / "context-windows"


class TestFreeNoise(NoiseInitContract):
    def noise(self) -> NoiseInit:
        return FreeNoise(5, 2)


class TestFreeNoiseWithoutOverlap(NoiseInitContract):
    def noise(self) -> NoiseInit:
        return FreeNoise(8, 0)


@dataclass(frozen=True)
class Published:
    frames: int
    length: int
    overlap: int
    seed: int
    source_frame: list[int]


def published() -> list[Published]:
    listed = json.loads((CASES / "comfy-windows-a.json").read_text())["freenoise"]
    run = json.loads((CASES / "context-windows-a.json").read_text())
    sizes = {
        "frames": run["latents_shape"][2],
        "length": run["length"],
        "overlap": run["overlap"],
    }
    return [Published(**case) for case in [*listed, sizes | run["freenoise"]]]


def drawn_from(seed: int) -> Callable[[int, int], list[int]]:
    """Return the published permutations: one generator for all pieces."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _piece, frames: torch.randperm(frames, generator=generator).tolist()


@pytest.mark.parametrize("case", published(), ids=lambda case: f"{case.frames}-seed-{case.seed}")
def test_the_order_is_the_published_one_under_the_published_permutations(
    case: Published,
) -> None:
    permutation = drawn_from(case.seed)
    order = free_noise_order(case.frames, case.length, case.overlap, permutation)
    assert list(order) == case.source_frame


def test_windows_hold_all_the_noise_once_and_pieces_shuffle_the_frames_before() -> None:
    draw = random.Random(0)
    for _ in range(300):
        length = draw.randint(1, 12)
        overlap, frames = draw.randrange(length), draw.randint(1, 60)
        apart = length - overlap
        order = list(free_noise_order(frames, length, overlap, drawn_from(draw.randint(0, 99))))
        assert len(order) == frames
        assert order[:length] == list(range(min(length, frames)))
        for start in range(0, frames - length + 1, apart):
            assert sorted(order[start : start + length]) == list(range(length))
        for start in range(0, frames - length, apart):
            piece = order[start + length : start + length + apart]
            assert sorted(piece) == sorted(order[start : start + len(piece)])


def test_an_endless_order_asks_for_one_piece_at_a_time() -> None:
    asked: list[int] = []

    def reversed_piece(piece: int, frames: int) -> list[int]:
        asked.append(piece)
        return list(reversed(range(frames)))

    order = free_noise_order(None, 4, 2, reversed_piece)
    assert list(islice(order, 4)) == [0, 1, 2, 3]
    assert asked == []
    assert list(islice(order, 4)) == [1, 0, 3, 2]
    assert asked == [0, 1]
    assert list(islice(order, 20_004))[-4:] == [0, 1, 2, 3], "turned round 5,002 times"


def test_what_a_frame_gets_does_not_depend_on_how_blocks_cut_the_video() -> None:
    noise = FreeNoise(7, 3)
    (whole,) = noise.blocks(SOURCE, FullSequence().blocks(41))
    for block_frames, context in ((5, 3), (1, 1), (9, 0)):
        cut = FifoQueue(block_frames, context).blocks(41)
        assert torch.equal(torch.cat(list(noise.blocks(SOURCE, cut)), dim=2), whole)
    endless = (FrameRange(4 * block, 4 * block + 4) for block in count())
    begin = torch.cat(list(islice(noise.blocks(SOURCE, endless), 10)), dim=2)
    assert torch.equal(begin, whole[:, :, :40])


def test_frames_are_those_drawn_and_every_window_has_them_all() -> None:
    (video,) = FreeNoise(6, 2).blocks(SOURCE, FullSequence().blocks(30))
    frames = video.unbind(2)
    places = [
        [place for place in range(6) if torch.equal(frame, frames[place])] for frame in frames
    ]
    order = list(chain.from_iterable(places))
    assert len(order) == 30, "each frame is one of the first 6"
    for start in range(0, 25, 4):
        assert sorted(order[start : start + 6]) == list(range(6))
    assert order[6:10] != order[10:14] or order[10:14] != order[14:18], "the same shuffle again"


@pytest.mark.parametrize(
    ("length", "overlap", "message"),
    [
        (0, 0, "cannot draw 0 latent frames; the least is 1"),
        (8, 8, "overlap by 8.*the nearest overlap is 7"),
        (8, -2, "overlap by -2.*the nearest overlap is 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(length: int, overlap: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FreeNoise(length, overlap)
