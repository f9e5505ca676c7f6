"""Strict device: ranks that share it, snapshots, LoRAs, and Lightning with what writes files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, final

import av
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from longtake.framework import Engine, FramesDecoded
from longtake.framework.callbacks.latent_writer import LatentWriter
from longtake.framework.callbacks.progress import progress_callback
from longtake.framework.callbacks.report import ReportWriter
from longtake.framework.callbacks.video_writer import VideoWriter
from longtake.framework.data import PromptData
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import RunKeeper
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.module import VideoModule
from longtake.framework.trainer import InferenceTrainer
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import BlockDone, Communicator, SingleDevice, TaskDone
from longtake.testing.cuda_rules.runs import REQUEST, Cell
from longtake.testing.ranks import RankPool
from longtake.testing.strict_device import NAME, register
from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture(scope="module", params=[2, 3], ids="{} ranks".format)
def ranks(request: pytest.FixtureRequest, library: Path) -> Iterator[RankPool]:
    """Return processes that share the device."""
    pool = RankPool(request.param, timeout=240.0)
    yield pool
    pool.close()


def blocks_of(
    communicator: Communicator, library: Path, cell: Cell, folder: Path
) -> tuple[str | None, list[Tensor], list[Tensor]]:
    """Return what connects the ranks, and blocks and frames on the output rank."""
    device = register(library)
    ranks = Communicator.connect(device, CHANNELS, timedelta(seconds=60))
    engine = Engine(
        cell.generation_config(folder),
        cell.strategy,
        world_size=ranks.world_size,
        rank=ranks.rank,
        device=device,
    )
    engine.check([REQUEST])
    engine.join(ranks)
    events = list(engine.generate(REQUEST))
    ranks.close()
    blocks = [event.latents.cpu() for event in events if isinstance(event, BlockDone)]
    return (
        ranks.transport_name,
        blocks,
        [one.frames for one in events if isinstance(one, FramesDecoded)],
    )


CELLS = {
    2: [
        Cell(mesh="stages 2", cache="next-block", decoders=0, aco=False),
        Cell(mesh="cfg 2", cache="same-step", decoders=0, aco=False),
        Cell(mesh="ulysses 2, overlap 2", cache="next-block", decoders=0, aco=False),
        Cell(mesh="ring 2", method="autoregressive", cache="rolling", decoders=0, aco=False),
    ],
    3: [
        Cell(mesh="stages 2", method="cascade", cache="rolling", decoders=1, aco=False),
        Cell(mesh="ulysses 2", cache="next-block", decoders=1, aco=True),
    ],
}


def test_ranks_that_share_the_device_make_the_video_of_one(
    ranks: RankPool, library: Path, tmp_path: Path
) -> None:
    """Through pinned host memory, as two ranks on one GPU; its copies come late."""
    tiny_wan_folder(tmp_path / "tiny")
    for cell in CELLS[ranks.world_size]:
        (name, blocks, frames), *_ = ranks.run(blocks_of, library, cell, tmp_path / "tiny")
        assert name == "staged"
        engine = Engine(cell.generation_config(tmp_path / "tiny"), SingleDevice())
        events = list(engine.generate(REQUEST))
        serial = [one.latents for one in events if isinstance(one, BlockDone)]
        # Weights at other addresses, as above, and splits of tokens and heads.
        torch.testing.assert_close(torch.cat(blocks, 2), torch.cat(serial, 2), rtol=0, atol=1e-4)
        its_frames = torch.cat([one.frames for one in events if isinstance(one, FramesDecoded)])
        assert (torch.cat(frames).int() - its_frames.int()).abs().max() <= 1


def resumed(communicator: Communicator, library: Path, model: Path, scratch: Path) -> list[Tensor]:
    """Return a video, and the same one that goes on elsewhere from a snapshot on the device."""
    device = register(library)
    settings = Cell(mesh="stages 2", cache="same-step", decoders=0, aco=False)
    config = settings.generation_config(model)

    def engine(resumes: bool) -> Engine:
        engine = Engine(config, SingleDevice(), device=device)
        engine.keep(RunKeeper(RunFolder(scratch), 1e-9, resumes=resumes, warn=pytest.fail))
        return engine

    before: list[Tensor] = []
    events = engine(resumes=False).generate(REQUEST)
    for event in events:
        if isinstance(event, BlockDone):
            Journal(scratch / "0000").append(event.block, event.frames, event.latents)
        before += [event.frames] if isinstance(event, FramesDecoded) else []
        if before and isinstance(event, TaskDone):
            break
    after = [
        e.frames for e in engine(resumes=True).generate(REQUEST) if isinstance(e, FramesDecoded)
    ]
    whole = Engine(config, SingleDevice(), device=device).generate(REQUEST)
    return [torch.cat(after), torch.cat([e.frames for e in whole if isinstance(e, FramesDecoded)])]


def test_a_run_goes_on_from_a_snapshot_of_the_device(
    pool: RankPool, library: Path, tmp_path: Path
) -> None:
    model = tiny_wan_folder(tmp_path / "tiny").path
    [(again, whole)] = pool.run(resumed, library, model, tmp_path / "run")
    assert torch.equal(again, whole)


def with_lora(communicator: Communicator, library: Path, model: Path, file: Path) -> list[Tensor]:
    """Return latents with a LoRA, of the CPU and of the device."""
    cell = Cell(mesh="stages 2", cache="same-step", decoders=0, aco=False)
    config = replace(cell.generation_config(model), lora=str(file))
    videos = []
    for device in (torch.device("cpu"), register(library)):
        events = Engine(config, SingleDevice(), device=device).generate(REQUEST)
        blocks = [event.latents.cpu() for event in events if isinstance(event, BlockDone)]
        videos.append(torch.cat(blocks, dim=2))
    return videos


def test_a_lora_is_merged_on_the_device(pool: RankPool, library: Path, tmp_path: Path) -> None:
    model = tiny_wan_folder(tmp_path / "tiny").path
    generator, name = torch.Generator().manual_seed(0), "transformer.blocks.0.attn1.to_q"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(2, 24, generator=generator),
        f"{name}.lora_B.weight": torch.randn(24, 2, generator=generator),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    [(latents, found)] = pool.run(with_lora, library, model, tmp_path / "lora.safetensors")
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-4)


@final
class StrictAccelerator(Accelerator):
    """The strict device, for Lightning."""

    @override
    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    @override
    def teardown(self) -> None:
        pass

    @staticmethod
    @override
    def parse_devices(devices: object) -> object:
        return devices

    @staticmethod
    @override
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    @override
    def auto_device_count() -> int:
        return 1

    @staticmethod
    @override
    def is_available() -> bool:
        return True

    @staticmethod
    @override
    def name() -> str:
        return NAME

    @override
    def get_device_stats(self, device: object) -> dict[str, Any]:
        return {}


def predicted(communicator: Communicator, library: Path, model: Path, scratch: Path) -> str:
    """Make a video as the command does, with Lightning and the callbacks that write files."""
    device = register(library)
    trainer = InferenceTrainer(accelerator=cast(Any, StrictAccelerator()))
    # Lightning takes a device that it does not know for a CPU.
    cast(Any, trainer.strategy)._root_device = device
    generator = VideoModule(pipeline=str(model), steps=2, dtype="float32")
    data = PromptData("red shape", num_frames=21, height=32, width=48)
    engine = trainer.prepare(generator, data)
    folder = RunFolder(scratch)
    folder.create()
    writer = VideoWriter()
    writer.bind(folder, engine.timings, "tiny", goes_on=False)
    report = ReportWriter(folder, engine.timings, "plain", engine.workloads)
    latents = LatentWriter(folder, engine.timings)
    trainer.attach([progress_callback("plain"), report, latents, writer])
    trainer.predict(generator, data)
    return str(engine.model.place.device)


def test_lightning_and_what_writes_files_run_on_the_device(
    pool: RankPool, library: Path, tmp_path: Path
) -> None:
    """Lightning makes the device the default one while weights are loaded, and only then."""
    model, out = tiny_wan_folder(tmp_path / "tiny").path, tmp_path / "run"
    [device] = pool.run(predicted, library, model, out)
    assert device == "strict:0"
    with av.open(str(out / "0000" / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 21
    assert list((out / "0000").rglob("*.safetensors"))
