"""Replicas of the mesh: each makes its share of the requests, with the bytes of the serial run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.engine import shared_folder
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder

FRAMES = (13, 37, 25)
"""Video frames of the requests."""
REQUESTS = [
    Request(
        index=index,
        prompts=(PromptAt(text=f"red shape {index}"),),
        num_frames=frames,
        height=32,
        width=48,
        seed=index,
    )
    for index, frames in enumerate(FRAMES)
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    path: Path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_wan_folder(path)
    return GenerationConfig(pipeline=str(path), scheduler=FifoQueue(3, 2), steps=2, dtype="float32")


@pytest.fixture(scope="module")
def serial(config: GenerationConfig) -> list[Tensor]:
    """Return the videos that one device makes, one after another."""
    engine = Engine(config, SingleDevice())
    engine.check(REQUESTS)
    return [_frames(engine, request) for request in REQUESTS]


def _frames(engine: Engine, request: Request) -> Tensor:
    frames = [one.frames for one in engine.generate(request) if isinstance(one, FramesDecoded)]
    return torch.cat(frames) if frames else torch.empty(0)


def made(
    communicator: Communicator,
    config: GenerationConfig,
    strategy: ParallelStrategy,
    requests: Sequence[Request],
) -> tuple[list[Tensor], list[str]]:
    """Make videos as one of the ranks; return those that came out here, and what was said last."""
    engine = Engine(config, strategy, world_size=communicator.world_size, rank=communicator.rank)
    requests = [replace(one, seed=one.seed + 100 * communicator.rank) for one in requests]
    engine.check(requests)
    engine.join(communicator)
    engine.load(requests)
    videos = [_frames(engine, request) for request in requests]
    return videos, engine.leave(f"replica {engine.replica}")


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        (SingleDevice(data=2), 2),
        (DualParal(stages=2, cfg=1, guidance="together", decode_devices=0, data=2), 4),
        (SingleDevice(decode_devices=1, data=2), 4),
    ],
    ids=["2-x-1", "2-x-2-stages", "2-x-decode-device"],
)
def test_replicas_make_the_bytes_of_the_serial_run(
    config: GenerationConfig, serial: list[Tensor], strategy: ParallelStrategy, ranks: int
) -> None:
    """Each request comes out on one rank alone, with the seed that rank 0 has."""
    found = rank_pool(ranks).run(made, config, strategy, REQUESTS)
    for index, video in enumerate(serial):
        here = [rank for rank, (videos, _) in enumerate(found) if len(videos[index])]
        assert here == [0 if index == 1 else ranks // 2], "the longest one is alone"
        assert torch.equal(found[here[0]][0][index], video)
    assert {tuple(said) for _, said in found} == {("replica 0", "replica 1")}


def test_tokens_are_shared_within_a_replica(config: GenerationConfig, serial: list[Tensor]) -> None:
    def ulysses(data: int) -> SequenceParallel:
        return SequenceParallel(ulysses=2, ring=1, cfg=1, decode_devices=0, data=data)

    found = rank_pool(4).run(made, config, ulysses(2), REQUESTS[:2])
    alone = rank_pool(2).run(made, config, ulysses(1), REQUESTS[:2])
    for index, video in enumerate(serial[:2]):
        mine = found[0 if index == 1 else 2][0][index]
        assert torch.equal(mine, alone[0][0][index]), "the bytes of one such mesh"
        assert (mine.float() - video.float()).abs().max() <= 1, "rounding, in 255 steps"


def seen(communicator: Communicator, folders: Sequence[Path]) -> str:
    """Look for rank 0's folder in this rank's own; return what is refused."""
    with mock.patch.object(shared_folder, "_PATIENCE", 0.0):
        try:
            shared_folder.check_shared(folders[communicator.rank], communicator, sees=True)
        except ConfigurationError as error:
            return str(error)
    return ""


def test_a_folder_that_another_machine_does_not_see_is_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert rank_pool(2).run(seen, [here, here]) == ["", ""]
    assert not list(here.iterdir())
    refused, other = rank_pool(2).run(seen, [here, there])
    assert "each replica writes its own videos, but rank 1 does not see the run's folder" in refused
    assert "set trainer.strategy.data to 1" in refused
    assert other == ""
