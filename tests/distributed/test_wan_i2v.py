"""Given frames on ranks: what one encodes all see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake.caches import NextBlockKV, NoCache, RollingKV
from longtake.demo.shapes import clip_of_prompt, render_clips
from longtake.framework import Engine, FramesDecoded, GenerationConfig, Keyframe, PromptAt, Request
from longtake.models import ModelFolder, family_of, open_folder
from longtake.schedulers import Autoregressive, ContextWindows, FifoQueue
from longtake.strategies import Communicator, DualParal, ParallelStrategy, SingleDevice
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_folder


def frames(
    communicator: Communicator, generation_config: GenerationConfig, request: Request
) -> Tensor | None:
    """Return the video that the engine makes, on the output rank."""
    strategy: ParallelStrategy = SingleDevice()
    if communicator.world_size > 1:
        strategy = DualParal(split=[2, 2], guidance="together")
    engine = Engine(
        generation_config, strategy, world_size=communicator.world_size, rank=communicator.rank
    )
    engine.check([request])
    engine.join(communicator)
    decoded = [
        event.frames for event in engine.generate(request) if isinstance(event, FramesDecoded)
    ]
    return torch.cat(decoded) if decoded else None


@pytest.mark.parametrize("model", ["2.1", "2.2", "text"])
def test_what_one_rank_encodes_all_ranks_see(model: str, tmp_path: Path) -> None:
    """Also those that embed nothing: cross-attention to an image runs in every stage."""
    if model == "text":
        tiny_wan_folder(tmp_path)
    else:
        tiny_wan_i2v_folder(tmp_path, experts=1 if model == "2.1" else 2)
    image = tmp_path / "first.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    generation_config = GenerationConfig(
        pipeline=str(tmp_path), scheduler=FifoQueue(3, 2), steps=2, dtype="float32"
    )
    request = Request(
        prompts=(PromptAt(text="red shape"),),
        num_frames=29,
        height=32,
        width=48,
        start=str(image),
    )
    expected = frames(Communicator.alone(), generation_config, request)
    found, nothing = rank_pool(2).run(frames, generation_config, request)
    assert nothing is None
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)


MODELS: dict[str, Callable[[Path], ModelFolder]] = {
    "text": tiny_wan_folder,
    "image": tiny_wan_i2v_folder,
    "timestep per frame": tiny_ti2v_folder,
}
SCHEDULES = {
    "queue": (FifoQueue(3, 2), NextBlockKV()),
    "causal": (Autoregressive(3), RollingKV(6)),
    "windows": (ContextWindows(5, 2), NoCache()),
}


@pytest.mark.parametrize(
    ("model", "schedule"),
    [
        ("text", "queue"),
        ("text", "causal"),
        ("text", "windows"),
        ("image", "queue"),
        ("timestep per frame", "queue"),
    ],
)
def test_first_last_and_keyframes_are_the_same_on_two_ranks(
    model: str, schedule: str, tmp_path: Path
) -> None:
    side = 2 if model == "timestep per frame" else 1  # its VAE halves once more
    height, width = 32 * side, 48 * side
    MODELS[model](tmp_path / "model")
    for name in "abcd":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    scheduler, cache = SCHEDULES[schedule]
    generation_config = GenerationConfig(
        pipeline=str(tmp_path / "model"), scheduler=scheduler, cache=cache, steps=2, dtype="float32"
    )
    plain = Request(
        prompts=(PromptAt(text="red shape"),),
        num_frames=45,
        height=height,
        width=width,
        start=str(tmp_path / "a.png"),
    )
    request = replace(
        plain,
        end=str(tmp_path / "d.png"),
        keyframes=(
            Keyframe(at=0.8, image=str(tmp_path / "b.png")),
            Keyframe(at=1.6, image=str(tmp_path / "c.png")),
        ),
    )
    expected = frames(Communicator.alone(), generation_config, request)
    found, nothing = rank_pool(2).run(frames, generation_config, request)
    assert nothing is None
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
    without = frames(Communicator.alone(), generation_config, plain)
    assert without is not None
    assert not torch.equal(found, without)


@torch.no_grad()
def as_the_vae_has_it(pixels: Tensor) -> Tensor:
    """Return what the bundled model's VAE makes of a picture alone."""
    folder, device = open_folder("demo"), torch.device("cpu")
    family = family_of(folder)
    latents = family.encode_video(folder, pixels[None], device)
    decoder = family.load_decoder(folder, device)
    frame: Tensor = torch.cat(list(decoder.decode(decoder.start(), latents)))[0]
    return (frame.permute(1, 2, 0) * 127.5 + 127.5).round().clamp(0, 255)


def test_a_video_shows_its_pictures_wherever_they_are_in_a_latent_frame(tmp_path: Path) -> None:
    """Each of a latent frame's four video frames shows the bundled model's picture to 30 dB."""
    prompt = "a red circle moving diagonally on a teal background"
    places, drawn = {"a": 0, "b": 17, "c": 30, "d": 39, "e": 48}, {}
    assert [(frame - 1) % 4 for frame in places.values()][1:] == [0, 1, 2, 3]
    for name in places:
        clip = clip_of_prompt(prompt, torch.Generator().manual_seed(ord(name)))
        shown = (render_clips(clip, 1)[0, :, 0].permute(1, 2, 0) + 1.0) * 127.5
        drawn[name] = shown.round().to(torch.uint8)
        Image.fromarray(drawn[name].numpy()).save(tmp_path / f"{name}.png")
    generation_config = GenerationConfig(
        pipeline="demo", scheduler=FifoQueue(3, 2), steps=3, guidance_scale=2.0, dtype="float32"
    )
    keyframes = [
        Keyframe(at=places[name] / 16, image=str(tmp_path / f"{name}.png")) for name in "bcd"
    ]
    request = Request(
        prompts=(PromptAt(text=prompt),),
        num_frames=49,
        height=64,
        width=64,
        start=str(tmp_path / "a.png"),
        end=str(tmp_path / "e.png"),
        keyframes=tuple(keyframes),
    )
    video = frames(Communicator.alone(), generation_config, request)
    assert video is not None
    for name, frame in places.items():
        error = (video[frame] - as_the_vae_has_it(drawn[name])).square().mean()
        assert 10 * torch.log10(255**2 / error.clamp(min=1e-9)) >= 30, name
