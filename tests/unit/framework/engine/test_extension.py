"""A finished run grows: its journal, its prompts, the tasks that a longer video shares with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longtake.caches import NextBlockKV, RollingKV
from longtake.errors import OutputError
from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.engine.checked_file import DamagedFile
from longtake.framework.engine.extension import PART, Extension, Extensions
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.engine.longer import common_edge, edge_of_longer, is_made_alike
from longtake.framework.engine.run_folder import EXTENSIONS, RunFolder
from longtake.noise import FreeNoise, Independent, SharedPool
from longtake.noise.base import NoiseInit
from longtake.schedulers import (
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    FifoQueue,
    FullSequence,
)
from longtake.strategies import BlockDone, SingleDevice
from longtake.task import FrameRange
from longtake.testing.tiny.base import tiny_wan_folder

VIDEO = Request(
    prompts=(
        PromptAt(text="a fish"),
        PromptAt(text="a bird", at=1.0),
        PromptAt(text="a shape", at=3.0),
    ),
    num_frames=65,
    height=32,
    width=48,
)
KEPT = KeptVideo(frames=49, bytes=10, fragments=4, checksum="00")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path)


def extension() -> Extension:
    """Return one from 49 video frames, 13 latent ones, the last 8 of which are seen."""
    return Extension(
        frames=49, to=65, seams=(49,), known=29, seen=8, shift=5, first_block=4, kept=KEPT
    )


def journal_of(folder: Path, *lengths: int) -> tuple[Journal, torch.Tensor]:
    """Return a journal of blocks of these lengths, and all their latents."""
    journal, start, parts = Journal(folder), 0, []
    for block, length in enumerate(lengths):
        latents = torch.randn(1, 2, length, 2, 2)
        journal.append(block, FrameRange(start, start + length), latents)
        parts.append(latents)
        start += length
    return journal, torch.cat(parts, dim=2)


def test_a_tail_is_the_last_latents_of_a_journal(tmp_path: Path) -> None:
    journal, latents = journal_of(tmp_path, 3, 4, 4, 2)
    for frames in (1, 2, 3, 8, 13):
        assert torch.equal(journal.tail(frames), latents[:, :, -frames:])
    with pytest.raises(DamagedFile, match="has not the last 14 latent frames"):
        journal.tail(14)
    (journal.folder / "00002.safetensors").unlink()
    with pytest.raises(DamagedFile):  # what is left does not stand together
        journal.tail(5)


@pytest.mark.parametrize("died", [False, True])
def test_the_blocks_of_a_part_join_the_journal(died: bool, tmp_path: Path) -> None:
    journal, before = journal_of(tmp_path, 3, 4, 4, 2)
    # Blocks of 3: the second one holds the seam at 5.
    part, after = journal_of(tmp_path / PART, 3, 3, 3)
    join = {"first_block": 3, "seen": 5, "shift": 8}
    if died:
        whole = Journal(tmp_path)
        whole.append(4, FrameRange(13, 14), after[:, :, 5:6])
    journal.join(part, **join)
    assert torch.equal(journal.tail(17), torch.cat([before, after[:, :, 5:]], dim=2))
    assert [str(journal.frames(block)) for block in journal.blocks()[-2:]] == ["13:14", "14:17"]
    assert not part.blocks()
    journal.join(part, **join)  # nothing is left to be done
    assert journal.tail(17).shape[2] == 17


def test_a_part_begins_in_the_midst_of_the_prompts(tmp_path: Path) -> None:
    part = extension().part(VIDEO, RunFolder(tmp_path))
    assert part.num_frames == 29 + 16
    assert part.whole_frames == VIDEO.num_frames
    assert part.start_frames == 29
    # It begins with video frame 20, after 1.25 seconds.
    assert [(one.text, one.at) for one in part.prompts] == [("a bird", 0.0), ("a shape", 1.75)]


def test_what_is_settled_reads_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert Extensions.read(folder) is None
    settled = Extensions(
        num_frames=65, requests={0: extension(), 3: Extension(frames=49, to=65, seams=())}
    )
    settled.write(folder)
    assert Extensions.read(folder) == settled
    assert settled.parts([VIDEO], folder, {0}) == [VIDEO]  # it has grown
    (tmp_path / EXTENSIONS).write_text('{"format": 2}')
    with pytest.raises(OutputError, match="format 2 is not known"):
        Extensions.read(folder)


def test_a_part_holds_the_latents_that_are_there(pipeline: str, tmp_path: Path) -> None:
    config = GenerationConfig(pipeline, scheduler=FifoQueue(3, 2), steps=3, dtype="float32")
    before = torch.randn(1, 4, 13, 4, 6)
    Journal(tmp_path / "0000").append(0, FrameRange(0, 13), before)
    part = extension().part(VIDEO, RunFolder(tmp_path))
    made = [
        event.latents
        for event in Engine(config, SingleDevice()).generate(part)
        if isinstance(event, BlockDone)
    ]
    latents = torch.cat(made, dim=2)
    assert latents.shape[2] == 12
    assert torch.equal(latents[:, :, :8], before[:, :, -8:])
    # What follows depends on them.
    Journal(tmp_path / "0000").append(0, FrameRange(0, 13), before.flip(2))
    others = [
        event.latents
        for event in Engine(config, SingleDevice()).generate(part)
        if isinstance(event, BlockDone)
    ]
    assert not torch.allclose(torch.cat(others, dim=2)[:, :, 8:], latents[:, :, 8:], atol=1e-3)


@pytest.mark.parametrize(
    ("scheduler", "cache", "has_one"),
    [
        (FifoQueue(3, 2), NextBlockKV(), True),
        (CascadeQueue(2), RollingKV(5, 1), True),
        (ContextWindows(4, 2), NextBlockKV(), False),
        (FullSequence(), NextBlockKV(), False),
    ],
    ids=["queue", "causal", "windows", "full"],
)
def test_a_longer_video_shares_the_tasks_before_the_end_is_in_sight(
    scheduler: BlockScheduler,
    cache: NextBlockKV | RollingKV,
    has_one: bool,
    pipeline: str,
) -> None:
    config = GenerationConfig(
        pipeline, scheduler=scheduler, cache=cache, noise=Independent(), steps=3
    )
    workloads = Engine(config, SingleDevice()).workloads
    edge = edge_of_longer(workloads, VIDEO)
    assert bool(edge) == has_one
    if not has_one:
        return
    for frames in (69, 81, 161):
        longer = Request(prompts=VIDEO.prompts, num_frames=frames, height=32, width=48)
        one, other = (workloads.of(video).forwards() for video in (VIDEO, longer))
        assert common_edge(one, other) >= edge
        shared = zip(workloads.of(VIDEO).forwards(), workloads.of(longer).forwards(), strict=False)
        assert all(a == b for a, b in shared if a.task.index < edge)


@pytest.mark.parametrize("noise", [SharedPool(), Independent(), FreeNoise(3, 1)])
def test_a_longer_video_is_made_alike_as_far_as_the_schedules_agree(
    noise: NoiseInit, pipeline: str
) -> None:
    config = GenerationConfig(pipeline, scheduler=FifoQueue(3, 2), noise=noise, steps=3)
    workloads = Engine(config, SingleDevice()).workloads
    longer = Request(prompts=VIDEO.prompts, num_frames=97, height=32, width=48)
    edge = edge_of_longer(workloads, VIDEO)
    assert is_made_alike(workloads, VIDEO, longer, edge, 5)
    assert not is_made_alike(workloads, VIDEO, longer, edge + 12, 5)
    other = Request(prompts=VIDEO.prompts, num_frames=97, height=32, width=48, seed=1)
    assert not is_made_alike(workloads, VIDEO, other, edge, 5)
