"""CUDA's rules, emulated: no run hangs under them, and what is not kept is found."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake.comm.p2p import Channel, Delivery
from longtake.strategies import Communicator
from longtake.testing.cuda_rules.device import EmulatedDevice, Hang
from longtake.testing.cuda_rules.order import Sent, misordered
from longtake.testing.cuda_rules.posted import PostedTransport
from longtake.testing.cuda_rules.runs import (
    Cell,
    Outcome,
    cells,
    is_serial,
    pairwise_cells,
    run_cell,
)
from longtake.testing.cuda_rules.transport import EmulatedTransport
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder

RANKS = 4
"""The most that a run here has: ``tools/cuda_rules.py`` tries all runs."""
TWO_STAGES = Cell(mesh="stages 2", cache="next-block", decoders=0, aco=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_wan_folder(path)
    return path


def test_every_pair_of_values_occurs_in_few_runs() -> None:
    few = pairwise_cells(RANKS)
    assert len(few) <= 80
    assert pairs(few) == pairs(cells(RANKS))


def pairs(some: list[Cell]) -> set[tuple[str, object]]:
    return {
        (cell.mesh, value)
        for cell in some
        for value in (cell.method, cell.cache, cell.decoders, cell.aco)
    }


@pytest.mark.parametrize("cell", pairwise_cells(RANKS), ids=str)
def test_no_run_hangs_and_every_video_is_that_of_one_device(cell: Cell, folder: Path) -> None:
    outcomes: list[Outcome] = rank_pool(cell.ranks).run(run_cell, cell, folder)
    assert [outcome.hang for outcome in outcomes] == [None] * cell.ranks
    assert not misordered([outcome.log for outcome in outcomes])
    assert not any(outcome.asked for outcome in outcomes), "a rank waits for its whole device"
    assert is_serial(cell, outcomes[0], folder)


@pytest.mark.parametrize("mesh", ["stages 2", "cfg 2"])
def test_receives_that_are_posted_ahead_on_the_device_hang(mesh: str, folder: Path) -> None:
    """What longtake did: the emulation sees it."""
    cell = Cell(mesh=mesh, cache="next-block", decoders=0, aco=False)
    outcomes = rank_pool(2).run(run_cell, cell, folder, PostedTransport, 2.0)
    hangs = [outcome.hang for outcome in outcomes if outcome.hang is not None]
    assert hangs
    assert all("posted receive" in hang for hang in hangs)


def to_and_fro(communicator: Communicator) -> list[Tensor]:
    """Give the other rank two messages, of two kinds, while it does the same; one queue."""
    device = EmulatedDevice(queues=1, patience=3.0)
    transport = EmulatedTransport(device)
    channels = [transport.channel() for _ in range(2)]
    rank, other = communicator.rank, 1 - communicator.rank
    arrived = []
    for turn in range(20):
        given = torch.full((3,), float(turn + rank))
        taken = torch.empty(3)
        # Of one kind, messages go in one direction only.
        waiting = [channels[rank].send(given, other), channels[other].post(taken, other)]
        for delivery in waiting:
            through(delivery)
        arrived.append(taken)
    device.close()
    return arrived


def through(delivery: Delivery) -> None:
    while not delivery.wait(1.0):
        pass


def test_messages_that_cross_do_not_hold_up_one_another() -> None:
    """Each rank takes one transfer at a time, and both take the same one first."""
    for rank, arrived in enumerate(rank_pool(2).run(to_and_fro)):
        for turn, tensor in enumerate(arrived):
            assert torch.equal(tensor, torch.full((3,), float(turn + 1 - rank)))


def crossed(communicator: Communicator) -> str:
    """Begin a send and a receive on one queue, on both ranks in this order."""
    device = EmulatedDevice(queues=1, patience=1.0)
    transport = PostedTransport(device)
    channels = [transport.channel() for _ in range(2)]
    rank, other = communicator.rank, 1 - communicator.rank
    sent = channels[rank].send(torch.zeros(1 << 20), other)
    taken = channels[other].post(torch.empty(1 << 20), other)
    try:
        through(taken)
        through(sent)
    except Hang as hang:
        return str(hang)
    finally:
        device.close()
    return ""


def test_without_slots_crossing_transfers_hang() -> None:
    """The emulated queues have no progress beside what is held up."""
    assert all(rank_pool(2).run(crossed))


def wait_for_device(communicator: Communicator) -> tuple[str, int]:
    """Wait for the whole device while a receive is posted, on a rank that gets it later."""
    device = EmulatedDevice(patience=1.0)
    channel: Channel = PostedTransport(device).channel()
    found, tensor = "", torch.ones(1)
    if communicator.rank == 0:
        channel.post(tensor, 1)
        with device.rules(), pytest.raises(Hang) as hang:
            torch.cpu.synchronize()
        found = str(hang.value)
    communicator.gather("")
    if communicator.rank == 1:  # only now: what rank 0's device waits for
        through(channel.send(tensor, 0))
    device.close()
    return found, device.asked


def test_a_wait_for_the_device_is_found_and_counted() -> None:
    (hang, asked), (_, others) = rank_pool(2).run(wait_for_device)
    assert "waits for the whole device, which waits for: posted receive" in hang
    assert (asked, others) == (1, 0)


def test_orders_that_differ_are_found() -> None:
    first, second = Sent("messages", 0, 1, 5), Sent("messages", 0, 1, 7)
    assert not misordered([[first, second], [first, second]])
    assert misordered([[first, second], [second, first]]) == ["messages: rank 0 to rank 1"]
    assert misordered([[first], []]) == ["messages: rank 0 to rank 1"]


def test_emulated_devices_leave_no_thread() -> None:
    before = threading.active_count()
    device = EmulatedDevice()
    device.synchronize()
    device.close()
    for thread in threading.enumerate():
        if thread.name == "emulated-queue":
            thread.join(5)
    assert threading.active_count() == before
