"""What a report says that a run is made with, where, and why there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.engine.inputs import inputs_of
from longtake.framework.engine.run_description import described, request_described
from longtake.models.loading.lora import Lora
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal, ParallelStrategy, SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder

VIDEO = Request(
    prompts=(PromptAt(text="a fish"), PromptAt(text="a bird", at=1.0)),
    num_frames=33,
    height=32,
    width=48,
)


@pytest.mark.parametrize(
    ("strategy", "ranks", "why"),
    [(SingleDevice(), 1, "one device"), (DualParal(stages=2), 2, "what trainer.strategy gives")],
)
def test_a_run_describes_itself(
    strategy: ParallelStrategy, ranks: int, why: str, tmp_path: Path
) -> None:
    folder = tiny_wan_folder(tmp_path / "tiny")
    pair = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 24),
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.zeros(24, 2),
    }
    lora, other = tmp_path / "style.safetensors", tmp_path / "other.safetensors"
    save_file(pair, lora)
    of_none = {key.replace("blocks.0", "blocks.999"): tensor + 1 for key, tensor in pair.items()}
    save_file({**pair, **of_none}, other)
    loras: list[Lora | str] = [str(lora), Lora(path=str(other), scale=0.5, missing="skip")]
    config = GenerationConfig(
        str(folder.path), scheduler=FifoQueue(3, 2), steps=3, lora=loras, dtype="float32"
    )
    engine = Engine(config, strategy, world_size=ranks)
    engine.check([VIDEO])
    said = described(engine.chosen)
    both = {"component": "transformer", "applied": {"transformer": 2}}
    assert said["loras"] == [
        {"file": str(lora), "scale": 1.0, "keys": 2, **both},
        {"file": str(other), "scale": 0.5, "keys": 4, **both},
    ]
    assert len(said["skipped"]) == 1
    layout = said["layout"]
    assert (layout["strategy"], layout["mesh"]["pipe"]) == (type(strategy).__name__, ranks)
    assert len(layout["layers"]) == ranks
    assert layout["why"].startswith(why)
    assert said["hardware"]["device"]

    made_from = request_described(engine.workloads, VIDEO, inputs_of([VIDEO])["requests"][0])
    assert [one["text"] for one in made_from["prompts"]] == ["a fish", "a bird"]
    levels = made_from["noise_levels"]
    assert len(levels) == 3
    assert levels == sorted(levels, reverse=True)
    assert levels == pytest.approx(engine.workloads.sampler(VIDEO).timesteps, rel=1e-5)
