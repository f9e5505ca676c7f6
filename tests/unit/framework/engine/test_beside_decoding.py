"""Decoding beside denoising: bounded, in order, with the error of the thread, and it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from longtake.comm.device_queue import HostCopies
from longtake.framework.engine.beside_decoding import BesideDecoding
from longtake.framework.engine.decoding import Decoded, DecodedVideo
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import VideoDecoder
from longtake.plan.layout import Layout
from longtake.strategies import BlockDone
from longtake.task import FrameRange, Run, Task

BLOCK: Final = 3
THREAD: Final = "longtake-decode"


class GatedDecoder(VideoDecoder[list[int]]):
    """Makes a frame of each latent frame, as bright as that, when it is let; notes how."""

    def __init__(self, broken_at: float = -1.0) -> None:
        self.gate = threading.Semaphore(0)
        self.begun = threading.Event()
        self.broken_at = broken_at
        self.decoded = 0
        self.threads: set[tuple[str, int, bool]] = set()

    @override
    def start(self) -> list[int]:
        return []

    @override
    def decode(self, state: list[int], latents: Tensor) -> Iterator[Tensor]:
        for frame in latents.unbind(dim=2):
            self.begun.set()
            assert self.gate.acquire(timeout=30)
            name = threading.current_thread().name
            self.threads.add((name, torch.get_num_threads(), torch.is_grad_enabled()))
            if float(frame.mean()) == self.broken_at:
                raise RuntimeError("the VAE is broken")
            self.decoded += 1
            level = (float(frame.mean()) - 127.5) / 127.5
            yield torch.full((1, 3, 8, 8), level)

    @override
    def finish(self, state: list[int]) -> Iterator[Tensor]:
        yield torch.full((1, 3, 8, 8), 1.0)  # what was held back


def block(number: int, frames: int = BLOCK) -> tuple[Task, BlockDone]:
    latent_frames = FrameRange(number * frames, (number + 1) * frames)
    run = Run(
        block=number, block_frames=latent_frames, step=0, frames=latent_frames.each, last_step=True
    )
    task = Task(
        index=number,
        iteration=number,
        block=number,
        step=0,
        steps=1,
        runs=(run,),
        prompt=latent_frames,
    )
    latents = torch.arange(latent_frames.start, latent_frames.stop).float().view(1, 1, -1, 1, 1)
    return task, BlockDone(number, latent_frames, latents)


def decoding_with(decoder: GatedDecoder) -> BesideDecoding:
    copies = HostCopies(torch.device("cpu"))
    video = DecodedVideo(decoder, Timings(), None, copies)
    return BesideDecoding(video, Layout.serial(4, 1))


def levels(items: Iterator[Decoded]) -> Iterator[int]:
    for item in items:
        if isinstance(item, FramesDecoded):
            yield int(item.frames[0, 0, 0, 0])


def take_all(decoding: BesideDecoding, found: list[int]) -> None:
    while not decoding.is_done:
        for level in levels(decoding.some(patient=True)):
            found.append(level)


def rest(decoding: BesideDecoding) -> list[int]:
    found: list[int] = []
    take_all(decoding, found)
    return found


def is_running() -> bool:
    return THREAD in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def threads() -> Iterator[int]:
    """Another number of OpenMP threads than the environment's, for PyTorch in this thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    yield before + 2
    torch.set_num_threads(before)


def test_frames_come_in_order_from_a_thread_with_the_same_settings(threads: int) -> None:
    decoder = GatedDecoder()
    decoding, found = decoding_with(decoder), list[int]()
    decoder.gate.release(4 * BLOCK)
    for number in range(4):
        while not decoding.has_room:
            found += levels(decoding.some(patient=True))
        assert list(decoding.take(*block(number))) == []
        found += levels(decoding.some())
    decoding.end()
    found += rest(decoding)
    assert found == [*range(4 * BLOCK), 255]
    assert decoder.threads == {(THREAD, threads, False)}
    assert not is_running()


def test_it_has_room_for_two_blocks_until_their_frames_are_taken() -> None:
    decoder = GatedDecoder()
    decoding, room = decoding_with(decoder), list[bool]()
    for number in range(2):
        room.append(decoding.has_room)
        list(decoding.take(*block(number)))
    room.append(decoding.has_room)
    decoder.gate.release(2 * BLOCK)
    while decoder.decoded < 2 * BLOCK:
        time.sleep(0.01)
    room.append(decoding.has_room)
    assert room == [True, True, False, False], "nobody has taken the frames that are decoded"
    found: list[int] = []
    while not decoding.has_room:
        found += levels(decoding.some(patient=True))
    assert found[:BLOCK] == list(range(BLOCK))
    decoding.end()
    found += rest(decoding)
    assert found == [*range(2 * BLOCK), 255]


def test_what_goes_wrong_is_raised_behind_the_frames_before_it() -> None:
    decoder = GatedDecoder(broken_at=4.0)
    decoding, found = decoding_with(decoder), list[int]()
    for number in range(2):
        list(decoding.take(*block(number)))
    decoding.end()
    decoder.gate.release(2 * BLOCK)
    with pytest.raises(RuntimeError, match="the VAE is broken"):
        take_all(decoding, found)
    assert found == [0, 1, 2, 3]
    decoding.close()
    assert not is_running()


def test_what_is_given_up_is_not_decoded() -> None:
    decoder = GatedDecoder()
    decoding = decoding_with(decoder)
    for number in range(2):
        list(decoding.take(*block(number)))
    assert decoder.begun.wait(30)
    opener = threading.Timer(0.05, decoder.gate.release)
    opener.start()
    decoding.close()  # waits for the latent frame that has begun
    opener.join()
    assert decoder.decoded == 1
    assert not is_running()


def test_frames_that_nobody_takes_are_bounded_and_can_be_given_up() -> None:
    decoder = GatedDecoder()
    decoding = decoding_with(decoder)
    list(decoding.take(*block(0, frames=50)))
    decoder.gate.release(50)
    while decoder.decoded < 17:  # 16 with their actions are there, and one waits for room
        time.sleep(0.01)
    time.sleep(0.1)
    assert decoder.decoded == 17
    decoding.close()
    assert decoder.decoded == 17
    assert not is_running()


def test_frames_beyond_the_bound_come_when_there_is_room() -> None:
    decoder = GatedDecoder()
    decoding = decoding_with(decoder)
    decoder.gate.release(50)
    list(decoding.take(*block(0, frames=50)))
    decoding.end()
    assert rest(decoding) == [*range(50), 255]
