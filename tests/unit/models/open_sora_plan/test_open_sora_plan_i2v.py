"""Open-Sora-Plan's image-to-video weights: what they are given, their contract, a whole run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.caches import NoCache
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    GivenFrames,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.open_sora_plan import OpenSoraPlanFamily
from longtake.models.open_sora_plan.wavelet_vae import WaveletEncoder
from longtake.schedulers import FullSequence
from longtake.task import Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
)
from longtake.testing.tiny.open_sora_plan import (
    published_forward,
    tiny_open_sora_plan_backbone,
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_spec,
    tiny_open_sora_plan_transformer,
    tiny_wavelet_vae,
)
from longtake.testing.tiny.parts import of_backbone

PLACE = Placement(torch.device("cpu"), torch.float32)
MASK: dict[str, Any] = {"vae_scale_factor_t": 4}
STEPS, FRAMES = 3, 3
NATIVE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("i2v"), **MASK)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def given() -> Tensor:
    """Return what the input channels hold, the same in every latent frame."""
    shape = (1, CHANNELS + 4, 1, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


class TestImageToVideoBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_open_sora_plan_backbone(range(LAYERS) if layers is None else layers, **MASK)

    def prompts(self) -> PromptStates:
        return tiny_masked_prompts(2)

    def start(self) -> ConditioningFrames:
        return ConditioningFrames(
            latents=torch.zeros(1, CHANNELS, 1, HEIGHT, WIDTH), channels=given()
        )

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        beside = given().expand(len(latents), -1, latents.shape[2], -1, -1)
        model = tiny_open_sora_plan_transformer(**MASK)
        return published_forward(model, torch.cat([latents, beside], dim=1), timestep, prompts)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    assert isinstance(family, OpenSoraPlanFamily)
    assert family.card(folder).start == "always"
    name = f"{folder.path.name} (OpenSoraPlanImageToVideoPipeline)"
    assert family.spec(folder) == replace(tiny_open_sora_plan_spec(image=True), name=name)


def test_weights_have_the_published_names() -> None:
    names = set(tiny_open_sora_plan_transformer(**MASK).state_dict())
    added = names - set(tiny_open_sora_plan_transformer().state_dict())
    parts = ("masked_hidden_states", "mask")
    kinds = ("0.proj.weight", "0.proj.bias", "1.weight")
    assert added == {f"pos_embed_{part}.{kind}" for part in parts for kind in kinds}


def encoded(folder: ModelFolder, frames: Tensor) -> ConditioningFrames:
    family = OpenSoraPlanFamily()
    return family.encode_given(folder, family.spec(folder), GivenFrames(start=frames), PLACE)


@pytest.mark.parametrize("known", [1, 2])
def test_given_frames_are_encoded_with_black_behind_them_and_a_mask_of_what_is_to_be_made(
    folder: ModelFolder, known: int
) -> None:
    frames = torch.randint(0, 256, (1 + 4 * (known - 1), 32, 48, 3), dtype=torch.uint8)
    start = encoded(folder, frames)
    black = torch.zeros(1 + 4 * (NATIVE - 1) - len(frames), 32, 48, 3, dtype=torch.uint8)
    clip = WaveletEncoder(tiny_wavelet_vae()).encode(torch.cat([frames, black]))
    assert start.channels is not None
    latents, mask = torch.split(start.channels, [CHANNELS, 4], dim=1)
    assert torch.equal(latents, clip)
    assert torch.equal(start.latents, clip[:, :, :known])
    assert not mask[:, :, :known].any()
    assert bool((mask[:, :, known:] == 1).all())
    assert mask.shape == (1, 4, NATIVE, HEIGHT, WIDTH)


def test_a_full_sequence_is_the_published_sampling_of_an_image(folder: ModelFolder) -> None:
    """Step by step the published forward, which sees the noisy latents and what is given."""
    family, case = (
        OpenSoraPlanFamily(),
        TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(1.0,), steps=STEPS),
    )
    noise = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    start = encoded(folder, torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8))
    states = family.encode_text(folder, ["red bird moves"], PLACE)
    sampler = load_sampler(folder, None, None, STEPS)
    work = of_backbone(
        tiny_denoising(case),
        family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
        states,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=sampler,
        start=start,
    )
    model, beside = tiny_open_sora_plan_transformer(**MASK), start.channels
    assert beside is not None
    assert work.step_noise is not None
    block, latents = sampler.start(), sampler.first(noise)
    for step, timestep in enumerate(sampler.timesteps):
        seen = torch.cat([latents, beside[:, :, :FRAMES]], dim=1)
        predicted = published_forward(model, seen, timestep, states)
        latents = block.step(predicted, latents, work.step_noise.draw(0, step, FRAMES))
    found = serial_video(work)
    assert (found - latents).abs().max() <= 1e-5 * latents.abs().max()
