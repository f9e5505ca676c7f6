"""The engine on several ranks: who reads what, and how all of them end together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from longtake.framework import (
    Engine,
    Event,
    FramesDecoded,
    GenerationConfig,
    PromptAt,
    Request,
    RequestEnded,
)
from longtake.models.wan import WanFamily
from longtake.schedulers import FifoQueue
from longtake.strategies import ActionDone, BlockDone, Communicator, DualParal, SingleDevice
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import LAYERS, tiny_wan_folder

VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=37, height=32, width=48)


@pytest.fixture(scope="module")
def generation_config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    path: Path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_wan_folder(path)
    return GenerationConfig(pipeline=str(path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32")


@dataclass(slots=True)
class Told:
    """What a rank's engine told, request by request, and what it read."""

    kinds: list[list[str]]
    frames: list[torch.Tensor | None]
    layers: list[list[int]]
    encoded: int
    decoders: int


def told(
    communicator: Communicator,
    generation_config: GenerationConfig,
    requests: list[Request],
    stop_after: dict[int, int],
    split: int,
) -> Told:
    """Make videos, as one of two ranks.

    Args:
        communicator: The ranks.
        generation_config: How.
        requests: What.
        stop_after: By request: the number of blocks after which the output rank is to stop.
        split: Layers of the first stage.
    """
    strategy = DualParal(split=[split, LAYERS - split], guidance="together")
    engine = Engine(generation_config, strategy, world_size=2, rank=communicator.rank)
    engine.check(requests)
    engine.join(communicator)
    with (
        mock.patch.object(WanFamily, "encode_text", autospec=True, side_effect=_encode) as encode,
        mock.patch.object(WanFamily, "load_backbone", autospec=True, side_effect=_load) as load,
        mock.patch.object(WanFamily, "load_decoder", autospec=True, side_effect=_decoder) as vae,
    ):
        events = [
            _events(engine, request, stop_after.get(index))
            for index, request in enumerate(requests)
        ]
    return Told(
        kinds=[[type(event).__name__ for event in request] for request in events],
        frames=[_frames(request) for request in events],
        layers=[list(call.args[3]) for call in load.call_args_list],
        encoded=encode.call_count,
        decoders=vae.call_count,
    )


_encode, _load, _decoder = WanFamily.encode_text, WanFamily.load_backbone, WanFamily.load_decoder


def _events(engine: Engine, request: Request, stop_after: int | None) -> list[Event]:
    events: list[Event] = []
    stop = lambda: sum(isinstance(e, BlockDone) for e in events) == stop_after  # noqa: E731
    for event in engine.generate(request, stop):
        events.append(event)
    return events


def _frames(events: list[Event]) -> torch.Tensor | None:
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    return torch.cat(frames) if frames else None


def alone(generation_config: GenerationConfig, request: Request) -> torch.Tensor:
    """Return the video that one device makes."""
    frames = _frames(list(Engine(generation_config, SingleDevice()).generate(request)))
    assert frames is not None
    return frames


def test_each_rank_reads_its_own_part_and_one_tells_of_the_video(
    generation_config: GenerationConfig,
) -> None:
    first, second = rank_pool(2).run(told, generation_config, [VIDEO], {}, 1)
    assert (first.layers, second.layers) == ([[0]], [[1, 2, 3]])
    assert (first.encoded, second.encoded) == (1, 0), "the text encoder is read once"
    assert (first.decoders, second.decoders) == (1, 0)
    assert first.frames[0] is not None
    assert torch.equal(first.frames[0], alone(generation_config, VIDEO))
    assert ActionDone.__name__ in first.kinds[0], "every rank tells of its own actions"
    assert set(second.kinds[0]) == {"ActionDone", "TaskDone"}


def test_a_stop_ends_the_request_on_all_ranks_and_the_next_one_is_whole(
    generation_config: GenerationConfig,
) -> None:
    endless = replace(VIDEO, num_frames=None)
    never = replace(VIDEO, index=2)
    requests = [endless, replace(VIDEO, index=1), never]
    first, second = rank_pool(2).run(told, generation_config, requests, {0: 2, 2: 0}, 2)
    assert first.kinds[0][-1] == RequestEnded.__name__
    assert first.frames[0] is not None
    assert len(first.frames[0]) == 1 + 4 * (5 + 3 - 1), "the two blocks that were finished"
    assert first.frames[1] is not None
    assert torch.equal(first.frames[1], alone(generation_config, requests[1]))
    assert (first.kinds[2], second.kinds[2]) == ([], []), "nothing is begun once it is to stop"


def unlike(communicator: Communicator, generation_config: GenerationConfig) -> str:
    """Join with another layout than the other rank's, and return what comes of it."""
    strategy = DualParal(split=[1, 3] if communicator.rank else [2, 2])
    engine = Engine(generation_config, strategy, world_size=2, rank=communicator.rank)
    engine.check([VIDEO])
    try:
        engine.join(communicator)
    except ValueError as error:
        return str(error)
    return ""


def test_ranks_whose_layouts_differ_do_not_begin(generation_config: GenerationConfig) -> None:
    first, _ = rank_pool(2).run(unlike, generation_config)
    assert "the ranks would not agree on who holds what" in first
