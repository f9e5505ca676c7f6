"""What ranks say to one another outside of a video, and how they learn that one is gone."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from multiprocessing import connection, get_context
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from longtake.caches import SameStepKV
from longtake.comm.activity import Limits
from longtake.errors import RankFailure
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import Communicator, DualParal
from longtake.task import FrameRange
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import TinyCase, tiny_denoising

TENSORS = [
    torch.arange(6.0).reshape(1, 2, 3),
    torch.tensor([[0.1, -3.0]], dtype=torch.bfloat16),
    torch.tensor([1.5], dtype=torch.float16),
    torch.tensor(2.5, dtype=torch.float64),
    torch.tensor([[1], [2**40]]),
    torch.tensor([True, False]),
    torch.zeros(0, 4),
    torch.arange(12.0).reshape(3, 4).T,
]
"""Of several dtypes and shapes: a scalar, an empty one, one that is not contiguous."""

STALL = timedelta(seconds=2)
HASTY = Limits(report=1, hang=4, hang_times=4)
CASE = TinyCase(latent_frames=None, cache=SameStepKV())


def agree(communicator: Communicator, values: list[bool]) -> bool:
    return communicator.agree(values[communicator.rank])


def share(communicator: Communicator, tensors: list[Tensor]) -> list[Tensor]:
    return [communicator.share(tensor if communicator.rank == 0 else None) for tensor in tensors]


def gather(communicator: Communicator, texts: list[str]) -> list[str]:
    return communicator.gather(texts[communicator.rank])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_rank_0_decides(ranks: int) -> None:
    for values in ([True, False, True], [False, True, True]):
        assert rank_pool(ranks).run(agree, values) == [values[0]] * ranks


def agree_anew(communicator: Communicator, values: list[bool]) -> bool:
    other = Communicator.connect(torch.device("cpu"), CHANNELS, timedelta(seconds=30))
    try:
        return other.agree(values[communicator.rank])
    finally:
        other.close()


def test_a_communicator_hears_nothing_of_an_earlier_one() -> None:
    assert rank_pool(2).run(agree, [True, True]) == [True, True]
    assert rank_pool(2).run(agree_anew, [False, False]) == [False, False]


def fail_anew(communicator: Communicator) -> str:
    """Let another communicator of this rank fail; return what the pool's own one hears of it."""
    other = Communicator.connect(torch.device("cpu"), CHANNELS, timedelta(seconds=30))
    other.fail("the disk is full")
    with pytest.raises(RankFailure, match="the disk is full"):
        other.check("wait")
    other.close()
    time.sleep(1.2)  # two beats
    communicator.check("go on")
    return "goes on"


def leave(communicator: Communicator) -> bool:
    """Make and close a communicator; return whether it, and so its groups' threads, are gone."""
    del communicator
    gc.disable()
    try:
        other = Communicator.connect(torch.device("cpu"), CHANNELS, timedelta(seconds=30))
        assert other.agree(True)
        gone = weakref.ref(other)
        other.close()
        del other
        return gone() is None
    finally:
        gc.enable()


def test_nothing_keeps_a_communicator_that_is_closed() -> None:
    """The threads of a group look for messages all the time, as long as it is there."""
    assert rank_pool(2).run(leave) == [True, True]


def test_a_communicator_does_not_fail_with_a_later_one() -> None:
    assert rank_pool(2).run(fail_anew) == ["goes on"] * 2


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_tensors_of_rank_0_arrive_bit_by_bit(ranks: int) -> None:
    for found in rank_pool(ranks).run(share, TENSORS):
        for tensor, expected in zip(found, TENSORS, strict=True):
            assert tensor.dtype == expected.dtype
            assert tensor.shape == expected.shape
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("texts", [["a", "größer", ""], ["", "", ""]])
def test_texts_come_together_on_rank_0(ranks: int, texts: list[str]) -> None:
    first, *others = rank_pool(ranks).run(gather, texts)
    assert first == texts[:ranks]
    assert others == [[]] * (ranks - 1)


def test_one_rank_needs_no_others() -> None:
    communicator = Communicator.alone()
    assert communicator.agree(True)
    assert not communicator.agree(False)
    assert torch.equal(communicator.share(TENSORS[0]), TENSORS[0])
    assert communicator.gather("alone") == ["alone"]
    communicator.check("do anything")
    communicator.close()


def make_a_video(
    rank: int,
    world_size: int,
    port: int,
    pipe: connection.Connection,
    victim: int,
    harm: str,
    pause: float,
) -> None:
    """Be a rank of an endless video; the victim comes to harm in the midst of its layers."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    limits = HASTY if harm in ("hangs", "device hangs") else None
    communicator = Communicator.connect(torch.device("cpu"), CHANNELS, STALL, limits=limits)
    strategy = DualParal(stages=world_size, cfg=1, guidance="together")
    layout = strategy.layout(world_size, CASE.workload)
    work = tiny_denoising(CASE, layout.layers(rank), communicator)
    change = harmful(work.text, harm, pipe) if rank == victim else slowly(work.text, pause)
    work = replace(work, text=change)
    try:
        with torch.no_grad():
            deque(strategy.run(work, layout, rank), maxlen=0)
    except RankFailure as failure:
        pipe.send(str(failure))
    except ArithmeticError as error:
        communicator.fail(f"ArithmeticError: {error}")
    time.sleep(60)  # the test ends it: a rank that ended by itself would be one more to be found


class Unreached(torch.cpu.Event):
    """A mark in the queue of a device that hangs."""

    def query(self) -> bool:
        return False


def harmful(
    text: Callable[[FrameRange, range], Any], harm: str, pipe: connection.Connection
) -> Callable[[FrameRange, range], Any]:
    """Return a ``text`` that harms its rank in the midst of the video."""
    calls = count()

    def suffer(frames: FrameRange, branches: range) -> Any:
        call = next(calls)
        if harm == "device hangs" and call == 15:
            time.sleep(1.5)  # the watchdog sees that tasks are done, and how long they take
        if call == 20:
            pipe.send("harm")
            if harm == "dies":
                os._exit(9)
            elif harm == "stalls":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif harm == "hangs":
                time.sleep(60)
            elif harm == "device hangs":
                torch.cpu.Event = Unreached  # type: ignore[misc]
            else:
                raise ArithmeticError("lost count")
        return text(frames, branches)

    return suffer


def slowly(
    text: Callable[[FrameRange, range], Any], pause: float
) -> Callable[[FrameRange, range], Any]:
    """Return a ``text`` that lets its rank compute for long, soon after the victim's harm."""
    calls = count()

    def wait(frames: FrameRange, branches: range) -> Any:
        if next(calls) > 15:
            time.sleep(pause)
        return text(frames, branches)

    return wait


@contextmanager
def ranks_of_their_own(
    world_size: int, victim: int, harm: str, pause: float
) -> Iterator[list[connection.Connection]]:
    """Yield the pipes of processes that nobody else uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, pipes = get_context("forkserver"), []
    context.set_forkserver_preload(["longtake.testing.tiny.base"])
    with ExitStack() as ends:
        for rank in range(world_size):
            pipe, its_pipe = context.Pipe()
            where = (rank, world_size, port, its_pipe, victim, harm, pause)
            process: Any = context.Process(target=make_a_video, args=where, daemon=True)
            process.start()
            its_pipe.close()
            ends.callback(process.join)
            ends.callback(process.kill)
            ends.callback(pipe.close)
            pipes.append(pipe)
        yield pipes


def receive(pipe: connection.Connection, seconds: float) -> str:
    assert pipe.poll(seconds), "a rank says nothing"
    return str(pipe.recv())


@pytest.mark.parametrize(
    ("harm", "victim", "pause", "cause"),
    [
        ("dies", 0, 0.0, "is gone|, which keeps the run's store, has not answered"),
        ("dies", 1, 0.0, "is gone"),
        ("dies", 2, 0.0, "is gone"),
        ("dies", 1, 0.3, "is gone"),
        ("dies", 2, 0.3, "is gone"),
        ("stalls", 0, 0.0, "which keeps the run's store, has not answered"),
        ("stalls", 1, 0.0, "gave no sign of life"),
        ("fails", 1, 0.0, "failed: ArithmeticError: lost count"),
        ("hangs", 1, 0.0, r"hangs: it has been in compute block \d+, step \d+.* \(expected: "),
        ("device hangs", 1, 0.0, r"hangs: it has queued, and its device has not finished, compute"),
    ],
)
def test_the_others_say_within_seconds_who_is_gone_and_what_they_waited_for(
    harm: str, victim: int, pause: float, cause: str
) -> None:
    with ranks_of_their_own(3, victim, harm, pause) as pipes:
        assert receive(pipes[victim], 30) == "harm"
        start = time.monotonic()
        for rank in {0, 1, 2} - {victim}:
            found = receive(pipes[rank], 15)
            assert re.fullmatch(
                rf"rank {rank} waited to (receive|send) \w+ of block \d+, step \d+.* "
                rf"(from|to) rank \d, but rank {victim}\b.*({cause}).*\.",
                found,
            ), found
        assert time.monotonic() - start < STALL.total_seconds() + 12
