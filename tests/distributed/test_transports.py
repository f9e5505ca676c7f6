"""Transports: whatever they go through, messages arrive as they were sent, in their order."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake.comm.gloo import GlooTransport
from longtake.comm.p2p import Delivery
from longtake.comm.staged import StagedTransport
from longtake.comm.transport import Transport
from longtake.strategies import Communicator
from longtake.testing.cuda_rules.device import EmulatedDevice
from longtake.testing.cuda_rules.runs import Cell, is_serial, run_cell
from longtake.testing.cuda_rules.transport import EmulatedTransport
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder

NAMES = ("gloo", "staged", "emulated")
DTYPES = (torch.float32, torch.bfloat16, torch.int64)


def transport_of(name: str) -> Transport:
    match name:
        case "gloo":
            return GlooTransport()
        case "staged":
            return StagedTransport(torch.device("cpu"))
        case _:
            return EmulatedTransport(EmulatedDevice())


def staged(device: EmulatedDevice) -> Transport:
    return StagedTransport(torch.device("cpu"))


def message(source: int, turn: int) -> Tensor:
    dtype = DTYPES[turn % len(DTYPES)]
    return (torch.arange(6) + 10 * turn + 100 * source).reshape(2, 3).to(dtype)


def round_the_ring(communicator: Communicator, name: str, turns: int) -> list[Tensor]:
    """Send messages to the next rank, posted two ahead, and receive those of the one before."""
    channel = transport_of(name).channel()
    rank, size = communicator.rank, communicator.world_size
    after, before = (rank + 1) % size, (rank - 1) % size
    coming: deque[tuple[Tensor, Delivery]] = deque()
    sending: list[Delivery] = []
    arrived = []
    for turn in range(turns + 2):
        if turn < turns:
            empty = torch.empty_like(message(0, turn))
            coming.append((empty, channel.post(empty, before)))
            sending.append(channel.send(message(rank, turn), after))
        if turn >= 2:
            tensor, delivery = coming.popleft()
            through(delivery)
            arrived.append(tensor)
    for delivery in sending:
        through(delivery)
    return arrived


def through(delivery: Delivery) -> None:
    while not delivery.wait(1.0):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_messages_arrive_in_their_order(name: str) -> None:
    for rank, arrived in enumerate(rank_pool(3).run(round_the_ring, name, 7)):
        expected = [message((rank - 1) % 3, turn) for turn in range(7)]
        for found, sent in zip(arrived, expected, strict=True):
            assert found.dtype == sent.dtype
            assert torch.equal(found, sent)


def give(communicator: Communicator, name: str) -> list[Tensor]:
    """Exchange tensors of other lengths with each rank of a group, one of them empty."""
    group = transport_of(name).group([0, 1, 2])
    assert group is not None
    rank, others = communicator.rank, [place for place in range(3) if place != communicator.rank]
    coming = [(place, torch.empty(place + 2 * rank)) for place in others]
    exchange = group.begin([(p, torch.full((rank + 2 * p,), float(rank))) for p in others], coming)
    exchange.end()
    return [tensor for _, tensor in coming]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_of_a_group_give_one_another_tensors(name: str) -> None:
    for rank, taken in enumerate(rank_pool(3).run(give, name)):
        others = [place for place in range(3) if place != rank]
        for place, tensor in zip(others, taken, strict=True):
            assert torch.equal(tensor, torch.full((place + 2 * rank,), float(place)))


def is_in_group(communicator: Communicator, name: str) -> bool:
    return transport_of(name).group([1]) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_beside_a_group_has_none(name: str) -> None:
    assert rank_pool(2).run(is_in_group, name) == [False, True]


@pytest.mark.parametrize("mesh", ["stages 2, ulysses 2", "cfg 2, ulysses 2"])
def test_staged_makes_the_video_of_one_device(mesh: str, tmp_path: Path) -> None:
    cell = Cell(mesh=mesh, cache="same-step", decoders=0, aco=False)
    tiny_wan_folder(tmp_path / "tiny")
    outcomes = rank_pool(cell.ranks).run(run_cell, cell, tmp_path / "tiny", staged)
    assert is_serial(cell, outcomes[0], tmp_path / "tiny")
