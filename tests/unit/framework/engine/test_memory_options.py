"""Options that save memory: what each one changes of the result, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from longtake.errors import ConfigurationError
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.engine.generation_config import Quantization
from longtake.models import Placement
from longtake.models.loading import quantize
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder

VIDEO = Request(prompts=(PromptAt(text="red shape"),), num_frames=37, height=32, width=48)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GenerationConfig:
    folder = tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny")
    return GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )


def made(config: GenerationConfig, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents and the frames of a short video."""
    events = list(Engine(replace(config, **options), SingleDevice()).generate(VIDEO))
    blocks = [event.latents for event in events if isinstance(event, BlockDone)]
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    return torch.cat(blocks, dim=2), torch.cat(frames)


def test_offloaded_layers_make_the_same_bits(config: GenerationConfig) -> None:
    assert torch.equal(made(config, offload="layers")[0], made(config)[0])


@pytest.mark.parametrize(("kept", "limit"), [("int8", 0.02), ("fp8", 0.08)])
def test_packed_keys_and_values_are_close(
    config: GenerationConfig, kept: str, limit: float
) -> None:
    plain, packed = made(config)[0], made(config, cache_format=kept)[0]
    assert 0 < (packed - plain).norm() / plain.norm() < limit


def test_a_decoder_in_bfloat16_changes_the_frames_alone(config: GenerationConfig) -> None:
    (latents, frames), (same, others) = made(config), made(config, vae_dtype="bfloat16")
    assert torch.equal(latents, same)
    assert others.dtype == torch.uint8
    difference = (frames.int() - others.int()).abs()
    assert 0 < difference.float().mean() < 4


def test_what_is_offloaded_is_encoded_on_the_cpu(config: GenerationConfig) -> None:
    place = Placement(torch.device("meta"), torch.float32)
    assert config.text_place(place) == place
    offloaded = replace(config, offload="text_encoder", quantize=Quantization(text_encoder="int8"))
    assert offloaded.text_place(place) == Placement(
        torch.device("cpu"), torch.float32, quantize="int8"
    )


def test_one_format_is_for_all_parts(config: GenerationConfig) -> None:
    assert config.quantization == Quantization()
    both = Quantization(transformer="fp8", text_encoder="fp8")
    assert replace(config, quantize="fp8").quantization == both


def test_quantizing_without_the_library_is_refused_at_once(
    config: GenerationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'longtake\[quantize\]'"):
        Engine(replace(config, quantize="int8"), SingleDevice())
