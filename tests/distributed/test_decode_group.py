"""Decode ranks: the same video as decoding between tasks, whoever decodes, and all end together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from longtake.errors import RankFailure
from longtake.framework import Engine, Event, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models.wan import WanDecoder, WanFamily
from longtake.plan.ir.actions import Decode
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.strategies.pipedit.head_share import HeadShare
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder

VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=37, height=32, width=48)
REQUESTS = [VIDEO, replace(VIDEO, index=1, num_frames=25), replace(VIDEO, index=2, seed=4)]


@pytest.fixture(scope="module")
def generation_config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    path: Path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_wan_folder(path)
    return GenerationConfig(pipeline=str(path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    """Of five heads, which two ranks do not share evenly."""
    path: Path = tmp_path_factory.mktemp("wide") / "tiny"
    tiny_wan_folder(path, heads=5)
    return GenerationConfig(pipeline=str(path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32")


@dataclass(slots=True)
class Told:
    """What a rank's engine told of all requests, in order, and what it has read."""

    kinds: list[str]
    frames: list[torch.Tensor]
    decoded: list[int]
    layers: list[int]
    decoders: int


def told(
    communicator: Communicator,
    generation_config: GenerationConfig,
    strategy: ParallelStrategy,
    requests: list[Request],
    stop_after: int | None = None,
) -> Told:
    """Make videos as one of the ranks.

    Args:
        communicator: The ranks.
        generation_config: How.
        strategy: Where.
        requests: What.
        stop_after: Blocks of the first request after which the output rank is to stop.
    """
    engine = Engine(
        generation_config, strategy, world_size=communicator.world_size, rank=communicator.rank
    )
    engine.check(requests)
    engine.join(communicator)
    events: list[Event] = []

    def stop() -> bool:
        blocks = sum(isinstance(event, BlockDone) for event in events)
        return request is requests[0] and blocks == stop_after

    with (
        mock.patch.object(WanFamily, "load_backbone", autospec=True, side_effect=_load) as load,
        mock.patch.object(WanFamily, "load_decoder", autospec=True, side_effect=_decoder) as vae,
    ):
        for request in requests:
            for event in engine.generate_ahead(request, stop):
                events.append(event)
        events.extend(engine.finish())
    return Told(
        kinds=[type(event).__name__ for event in events if not isinstance(event, ActionDone)],
        frames=_videos(events),
        decoded=[
            event.action.block
            for event in events
            if isinstance(event, ActionDone) and isinstance(event.action, Decode)
        ],
        layers=[layer for call in load.call_args_list for layer in call.args[3]],
        decoders=vae.call_count,
    )


_load, _decoder = WanFamily.load_backbone, WanFamily.load_decoder


def _videos(events: list[Event]) -> list[torch.Tensor]:
    """Return each request's frames; a request's events are not mixed with another's."""
    videos: list[list[torch.Tensor]] = []
    for event in events:
        match type(event).__name__:
            case "RequestStarted":
                videos.append([])
            case "FramesDecoded":
                assert isinstance(event, FramesDecoded)
                videos[-1].append(event.frames)
    return [torch.cat(video) for video in videos]


def alone(generation_config: GenerationConfig, request: Request) -> torch.Tensor:
    """Return the video that one device makes."""
    return _videos(list(Engine(generation_config, SingleDevice()).generate(request)))[0]


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        (SingleDevice(decode_devices=1), 2),
        (DualParal(stages=2, cfg=1, guidance="together", decode_devices=1), 3),
        (SingleDevice(decode_devices=2), 3),
    ],
    ids=["single", "pipeline", "two-decoders"],
)
def test_the_videos_are_those_of_one_device(
    generation_config: GenerationConfig, strategy: ParallelStrategy, ranks: int
) -> None:
    output, *others = rank_pool(ranks).run(told, generation_config, strategy, REQUESTS)
    for request, video in zip(REQUESTS, output.frames, strict=True):
        assert torch.equal(video, alone(generation_config, request))
    assert output.decoders == 0, "the output rank holds no VAE"
    assert output.decoded == []
    decoders = [rank for rank in others if rank.decoders]
    assert len(decoders) == strategy.decode_devices
    assert all(rank.layers == [] for rank in decoders), "a decode rank holds no layers"
    assert all(rank.decoded for rank in decoders)


@pytest.mark.parametrize("decoders", [1, 2, 3])
def test_decode_ranks_share_the_tiles_of_a_video(
    generation_config: GenerationConfig, decoders: int
) -> None:
    tiled = replace(generation_config, vae_tile=32)
    request = replace(VIDEO, height=48, width=64)  # of 2 x 3 tiles
    strategy = SingleDevice(decode_devices=decoders)
    output, *others = rank_pool(1 + decoders).run(told, tiled, strategy, [request])
    assert torch.equal(output.frames[0], alone(tiled, request))
    assert not torch.equal(output.frames[0], alone(generation_config, request)), (
        "tiles leave a trace"
    )
    assert [rank.decoders for rank in others] == [1] * decoders


def test_events_come_one_video_after_another(generation_config: GenerationConfig) -> None:
    output, _ = rank_pool(2).run(told, generation_config, SingleDevice(decode_devices=1), REQUESTS)
    marks = [kind for kind in output.kinds if kind.startswith("Request")]
    assert marks == ["RequestStarted", "RequestEnded"] * 3


def test_sequence_parallel_ranks_and_a_decode_rank(generation_config: GenerationConfig) -> None:
    strategy = SequenceParallel(ulysses=2, ring=1, cfg=1, decode_devices=1)
    output, *_ = rank_pool(3).run(told, generation_config, strategy, REQUESTS[:1])
    expected = alone(generation_config, VIDEO)
    # Split heads sum in another order; a level of 256 is what rounding to bytes can turn.
    difference = (output.frames[0].int() - expected.int()).abs().max()
    assert difference <= 1


def test_a_stop_leaves_what_was_finished_and_the_next_video_is_whole(
    generation_config: GenerationConfig,
) -> None:
    requests = [replace(VIDEO, num_frames=None), REQUESTS[1]]
    strategy = SingleDevice(decode_devices=1)
    output, _ = rank_pool(2).run(told, generation_config, strategy, requests, 2)
    assert len(output.frames[0]) == 1 + 4 * (5 + 3 - 1), "the two blocks that were finished"
    assert torch.equal(output.frames[1], alone(generation_config, requests[1]))


def overlapping(communicator: Communicator, generation_config: GenerationConfig) -> int:
    """Let the first video's last block be decoded only when the second video is being denoised."""
    store = dist.distributed_c10d._get_default_store()
    key = f"second-video/{communicator._agreed}"
    decode, run = WanDecoder.decode, SingleDevice.run
    blocks = [0]
    videos = [0]

    def waiting(decoder: WanDecoder, state: Any, latents: torch.Tensor) -> Any:
        blocks[0] += latents.device.type != "meta"  # where operations are counted
        if blocks[0] == 4:  # the last one of the first video
            store.wait([key], timedelta(seconds=60))
        return decode(decoder, state, latents)

    def telling(strategy: SingleDevice, *args: Any) -> Any:
        videos[0] += 1
        if videos[0] == 2:
            store.set(key, "begun")
        return run(strategy, *args)

    with (
        mock.patch.object(WanDecoder, "decode", waiting),
        mock.patch.object(SingleDevice, "run", telling),
    ):
        requests = [VIDEO, replace(VIDEO, index=1)]
        return len(
            told(communicator, generation_config, SingleDevice(decode_devices=1), requests).frames
        )


def test_a_video_is_decoded_while_the_next_one_is_denoised(
    generation_config: GenerationConfig,
) -> None:
    """Otherwise the two would wait for each other."""
    output, _ = rank_pool(2).run(overlapping, generation_config)
    assert output == 2


def broken(communicator: Communicator, generation_config: GenerationConfig) -> str:
    """Let the decode rank fail in the midst of a video, and return what a rank says."""

    def fail(decoder: WanDecoder, state: Any, latents: torch.Tensor) -> Any:
        raise ValueError("no picture")

    with mock.patch.object(WanDecoder, "decode", fail):
        try:
            told(communicator, generation_config, SingleDevice(decode_devices=1), [VIDEO])
        except ValueError as error:
            communicator.fail(str(error))
            return "failed"
        except RankFailure as error:
            return str(error)
    return "ended"


def test_a_decode_rank_that_fails_ends_the_run(generation_config: GenerationConfig) -> None:
    pool = rank_pool(2)
    output, other = pool.run(broken, generation_config)
    pool.close()  # its communicator have given up
    assert other == "failed"
    assert "rank 0 waited to receive video frames, but rank 1 failed: no picture" in output


def helped(
    communicator: Communicator,
    generation_config: GenerationConfig,
    strategy: ParallelStrategy,
    heads: int,
) -> Told:
    """Make videos with so many heads of each rank given away, whatever is measured."""
    with mock.patch.object(HeadShare, "heads", return_value=heads):
        return told(communicator, generation_config, strategy, REQUESTS[:2])


@pytest.mark.parametrize(
    ("strategy", "ranks", "heads"),
    [
        (SingleDevice(decode_devices=1, aco=True), 2, 1),
        (SingleDevice(decode_devices=2, aco=True), 3, 1),
        (SequenceParallel(ulysses=1, ring=1, cfg=2, decode_devices=1, aco=True), 3, 1),
        (SequenceParallel(ulysses=2, ring=1, cfg=1, decode_devices=2, aco=True), 4, 1),
    ],
    ids=["single", "two-decoders", "cfg", "ulysses"],
)
def test_heads_that_decode_ranks_attend_change_nothing(
    wide: GenerationConfig, strategy: ParallelStrategy, ranks: int, heads: int
) -> None:
    output, *_ = rank_pool(ranks).run(helped, wide, strategy, heads)
    for request, video in zip(REQUESTS, output.frames, strict=False):
        # Split heads may sum in another order; that can turn one level of 256.
        assert (video.int() - alone(wide, request).int()).abs().max() <= 1
