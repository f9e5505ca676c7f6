"""``trainer.deterministic``: what PyTorch is told, and that a run still works under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.trainer import InferenceTrainer
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture(autouse=True)
def _settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start from PyTorch's defaults, and leave what was there."""
    for name in ("CUBLAS_WORKSPACE_CONFIG", "HOROVOD_FUSION_THRESHOLD"):
        monkeypatch.setenv(name, "")  # what Lightning sets goes no further
    settings = [
        (torch.backends.cuda.matmul, "allow_tf32", True),
        (torch.backends.cudnn, "allow_tf32", True),
        (torch.backends.cudnn, "deterministic", False),
        (torch.backends.cudnn, "benchmark", True),
    ]
    before = [getattr(part, name) for part, name, _ in settings]
    algorithms = torch.are_deterministic_algorithms_enabled()
    for part, name, value in settings:
        setattr(part, name, value)
    yield
    for (part, name, _), value in zip(settings, before, strict=True):
        setattr(part, name, value)
    torch.use_deterministic_algorithms(algorithms)


def test_a_deterministic_trainer_says_so_to_pytorch() -> None:
    InferenceTrainer(accelerator="cpu", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("chosen", [False, True])
def test_by_default_what_a_script_has_chosen_stays(chosen: bool) -> None:
    torch.use_deterministic_algorithms(chosen)
    InferenceTrainer(accelerator="cpu")
    assert torch.are_deterministic_algorithms_enabled() is chosen
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


def test_a_video_is_the_same_under_it(tmp_path: Path) -> None:
    """On the CPU: no kernel of a run is one that PyTorch refuses, and no bit changes."""
    pipeline = str(tiny_wan_folder(tmp_path / "tiny").path)
    generation_config = GenerationConfig(
        pipeline=pipeline, scheduler=FifoQueue(3, 2), steps=2, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="bird"),), num_frames=21, height=32, width=48)

    def latents() -> torch.Tensor:
        events = Engine(generation_config, SingleDevice(), device="cpu").generate(request)
        return torch.cat([one.latents for one in events if isinstance(one, BlockDone)], dim=2)

    plain = latents()
    InferenceTrainer(accelerator="cpu", deterministic=True)
    assert torch.equal(latents(), plain)
