"""Strict device: every family and method runs where a tensor on the wrong device is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from longtake.models.registry import registered
from longtake.strategies import Communicator
from longtake.testing.device_runs import FAMILIES, RUNS, videos
from longtake.testing.ranks import RankPool
from longtake.testing.strict_device import register


def made(
    communicator: Communicator, library: Path, name: str, scratch: Path, dtype: str
) -> list[tuple[Tensor, Tensor]]:
    return videos(name, scratch, "cpu", register(library), dtype=dtype)


@pytest.mark.parametrize("name", RUNS)
def test_the_video_is_that_of_the_cpu(
    pool: RankPool, library: Path, tmp_path: Path, name: str
) -> None:
    [((latents, frames), (found, its_frames))] = pool.run(made, library, name, tmp_path, "float32")
    # The same kernels, but weights that a CPU reads from the mapped file begin at other addresses,
    # which changes the order in which MKL sums: with MKL_CBWR=COMPATIBLE most bits are equal.
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-4)
    assert (its_frames.int() - frames.int()).abs().max() <= 1


def test_weights_of_half_precision_stay_on_the_device(
    pool: RankPool, library: Path, tmp_path: Path
) -> None:
    [((latents, _), (found, _))] = pool.run(made, library, "Wan", tmp_path, "bfloat16")
    # Sums in another order, of numbers of 8 bits.
    torch.testing.assert_close(found, latents, rtol=0, atol=0.1)


def test_every_pipeline_is_run(tmp_path: Path) -> None:
    folders = {run.folder(tmp_path / name).pipeline for name, run in FAMILIES.items()}
    assert folders == {name for name, family in registered().items() if "longtake." in str(family)}


def refusals(communicator: Communicator, library: Path) -> dict[str, str]:
    """Return what the device says to each of some calls; empty: it does what was asked."""
    device = register(library)
    here, there = torch.ones(3, 4), torch.ones(3, 4, device=device)
    index = torch.tensor([1, 0])
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: there + here,
        "cat": lambda: torch.cat([there, here]),
        "matmul": lambda: there @ here.T,
        "conv": lambda: functional.conv1d(there[None], here[None]),
        "embedding": lambda: functional.embedding(index, there),
        "number from the device": lambda: here * there.sum(),
        "generator": lambda: torch.randn(3, generator=torch.Generator(), device=device),
        "attention": lambda: functional.scaled_dot_product_attention(
            there[None], there[None], here[None]
        ),
        "index by one number": lambda: there.index_select(0, index[0]),
        "number": lambda: there * torch.tensor(2.0),
        "where": lambda: torch.where(there > 0, torch.tensor(1.0), there),
        "index": lambda: there[index],
        "copy": lambda: there.copy_(here),
        "back": lambda: there.cpu() + here,
    }
    return {name: _said(call) for name, call in calls.items()}


def _said(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def test_what_mixes_devices_is_refused(pool: RankPool, library: Path) -> None:
    """As on CUDA: all but numbers without dims, indices and copies."""
    [said] = pool.run(refusals, library)
    allowed = {"number", "where", "index", "copy", "back"}
    assert {name for name, text in said.items() if not text} == allowed
    told = ("mixes devices", "Expected all tensors to be on the same device")
    assert all(any(part in said[name] for part in told) for name in said.keys() - allowed)


def late_copy(communicator: Communicator, library: Path) -> tuple[Tensor, list[bool], Tensor]:
    """Copy to pinned memory; return it before its event was asked for, the answers, and after."""
    device = register(library)
    host, source = torch.empty(3, pin_memory=True), torch.arange(3.0, device=device)
    host.copy_(source, non_blocking=True)
    source.zero_()
    early, event = host.clone(), torch.get_device_module(device).Event()
    event.record()
    return early, [event.query(), event.query()], host


def test_a_copy_that_does_not_block_comes_late(pool: RankPool, library: Path) -> None:
    [(early, answers, late)] = pool.run(late_copy, library)
    assert early.isnan().all()
    assert answers == [False, True]
    assert torch.equal(late, torch.arange(3.0))
