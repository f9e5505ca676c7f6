"""CogVideoX image to video: learned positions, the pipeline of diffusers, and its encoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from tests.unit.models.cogvideox.test_cogvideox import forward
from torch import Tensor

from longtake.caches import NoCache
from longtake.errors import ConfigurationError
from longtake.framework import PromptAt, Request
from longtake.framework.engine.preflight import check_request
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
from longtake.models.cogvideox import CogVideoXFamily
from longtake.schedulers import FifoQueue, FullSequence
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
    tiny_prompts,
)
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox_i2v_backbone,
    tiny_cogvideox_i2v_folder,
    tiny_cogvideox_i2v_spec,
    tiny_cogvideox_i2v_transformer,
    tiny_cogvideox_spec,
    tiny_cogvideox_vae,
)
from longtake.testing.tiny.parts import of_backbone

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES, SCALE = 3, 13, 6.0
PROMPTS = ["red bird moves", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_cogvideox_i2v_folder(tmp_path_factory.mktemp("i2v"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestCogVideoXI2VBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_cogvideox_i2v_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def start(self) -> ConditioningFrames:
        shape = (1, CHANNELS, 1, HEIGHT, WIDTH)
        given = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        return ConditioningFrames(latents=given, channels=given)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        """Of the learned positions the first frames': diffusers would compute some for a part."""
        transformer, given = tiny_cogvideox_i2v_transformer(), self.start().channels
        patches, tokens = transformer.patch_embed, tiny_cogvideox_spec().text_tokens
        tokens += self._tokens(latents.shape[2])
        patches._get_positional_embeddings = lambda *_, **__: patches.pos_embedding[:, :tokens]
        assert given is not None
        beside = given.expand(len(latents), -1, latents.shape[2], -1, -1)
        seen = torch.cat([latents, beside], dim=1)
        return forward(transformer, seen, timestep, prompts["states"])


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    assert isinstance(family, CogVideoXFamily)
    spec, tiny = family.spec(folder), tiny_cogvideox_i2v_spec()
    assert replace(spec, name=tiny.name) == tiny
    assert family.card(folder).start == "always"


@pytest.mark.parametrize(("frames", "most"), [(53, "53"), (None, "null, endless")])
def test_a_video_is_as_long_as_there_are_positions(frames: int | None, most: str) -> None:
    spec, prompts = tiny_cogvideox_i2v_spec(), (PromptAt(text="red"),)
    longest = Request(prompts=prompts, num_frames=49, height=HEIGHT * 8, width=WIDTH * 8)
    check_request(longest, spec, FifoQueue())
    with pytest.raises(ConfigurationError, match=rf"num_frames is {most}.*13 latent.*most is 49"):
        check_request(replace(longest, num_frames=frames), spec, FifoQueue())


def noise() -> Tensor:
    shape = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (HEIGHT * 8, WIDTH * 8, 3), generator=generator).byte()


def full_sequence(folder: ModelFolder, image: Tensor, scale: float) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts and image included."""
    family, case = (
        CogVideoXFamily(),
        TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,)),
    )
    spec = family.spec(folder)
    work = of_backbone(
        tiny_denoising(case),
        family.load_backbone(folder, spec, range(LAYERS), PLACE),
        family.encode_text(folder, PROMPTS, PLACE),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=load_sampler(folder, None, None, STEPS),
        start=family.encode_given(folder, spec, GivenFrames(start=image[None]), PLACE),
    )
    return serial_video(work)


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_a_full_sequence_is_the_pipeline(
    folder: ModelFolder, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline draws a sample of the image's latents; here both have their mean."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )
    pipeline: Any = CogVideoXImageToVideoPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=Image.fromarray(picture(1).numpy()),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        guidance_scale=scale,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise().transpose(1, 2),
        max_sequence_length=tiny_cogvideox_spec().text_tokens,
        output_type="latent",
    ).frames.transpose(1, 2)
    found = full_sequence(folder, picture(1), scale)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = full_sequence(folder, picture(2), scale)
    assert (found - other).abs().max() > 1e-2 * expected.abs().max(), "the image is not seen"


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17, 25])
def test_frames_are_encoded_as_by_diffusers(folder: ModelFolder, frames: int) -> None:
    shown = torch.randint(0, 256, (frames, 32, 48, 3), dtype=torch.uint8)
    vae: Any = AutoencoderKLCogVideoX.from_pretrained(folder.path / "vae")
    pixels = 2 * (shown.permute(3, 0, 1, 2)[None] / 255) - 1
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    found = CogVideoXFamily().encode_video(folder, shown, CPU)
    assert found.shape[2] == 1 + (frames - 1) // 4
    assert torch.equal(found, expected)
    assert tiny_cogvideox_vae().config.scaling_factor == vae.config.scaling_factor


def test_what_is_given_stands_in_the_channels_and_nothing_after_it(folder: ModelFolder) -> None:
    family = CogVideoXFamily()
    spec, frames = family.spec(folder), torch.randint(0, 256, (5, 32, 48, 3), dtype=torch.uint8)
    start = family.encode_given(folder, spec, GivenFrames(start=frames), PLACE)
    seen = start.channels_of(tuple(range(FRAMES)))
    assert torch.equal(seen[:, :, :2], start.latents)
    assert not seen[:, :, 2:].any()
