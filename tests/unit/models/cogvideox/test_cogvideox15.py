"""CogVideoX 1.5, of two latent frames per token: contracts, decoder, and the pipeline's video."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from einops import rearrange
from torch import Tensor

from longtake.caches import NoCache
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    BackboneSpec,
    ConditioningFrames,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.cogvideox import (
    CogVideoXDecoder,
    CogVideoXFamily,
    PairsDecoder,
    before_the_video,
    paired,
    unpaired,
)
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import SingleDevice
from longtake.task import Video
from longtake.testing.contracts import BackboneContract, VideoDecoderContract
from longtake.testing.contracts.decoder import CUTS
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import HEIGHT, LAYERS, WIDTH, TinyCase, tiny_prompts
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox15_backbone,
    tiny_cogvideox15_denoising,
    tiny_cogvideox15_folder,
    tiny_cogvideox15_spec,
    tiny_cogvideox15_transformer,
    tiny_cogvideox_vae,
)
from longtake.testing.tiny.parts import of_backbone

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, PAIRS, SCALE = 4, 3, 6.0
PROMPTS = ["red bird moves", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_cogvideox15_folder(tmp_path_factory.mktemp("cogvideox"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def folded(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c (f t) h w -> b (c t) f h w", t=2)


def forward(transformer: Any, frames: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
    """Run diffusers' own forward, with positions as the pipeline prepares them."""
    plane, pairs = (frames.shape[3] // 2, frames.shape[4] // 2), frames.shape[2] // 2
    rotary = get_3d_rotary_pos_embed(16, None, plane, pairs, grid_type="slice", max_size=(12, 12))
    out: Tensor = transformer(
        frames.transpose(1, 2),
        prompts["states"],
        torch.full((len(frames),), timestep),
        ofs=torch.tensor([2.0]),
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    return folded(out.transpose(1, 2))


class TestCogVideoX15Backbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_cogvideox15_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_cogvideox15_transformer(), unpaired(latents), timestep, prompts)


class TestCogVideoX15ImageBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_cogvideox15_backbone(range(LAYERS) if layers is None else layers, image=True)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def start(self) -> ConditioningFrames:
        shape = (1, 8, 1, HEIGHT, WIDTH)
        given = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        return ConditioningFrames(latents=given, channels=given)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        given = self.start().channels
        assert given is not None
        beside = unpaired(given.expand(len(latents), -1, latents.shape[2], -1, -1))
        seen = torch.cat([unpaired(latents), beside], dim=1)
        return forward(tiny_cogvideox15_transformer(image=True), seen, timestep, prompts)


class TestCogVideoX15BackboneFromDisk(TestCogVideoX15Backbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        family, held = CogVideoXFamily(), range(LAYERS) if layers is None else layers
        return family.load_backbone(self.folder, family.spec(self.folder), held, PLACE)

    def prompts(self) -> PromptStates:
        return CogVideoXFamily().encode_text(self.folder, PROMPTS, PLACE)


class TestCogVideoX15Decoder(VideoDecoderContract):
    held_back = 1
    bit_equal = CUTS  # the batches are those of diffusers, wherever blocks are cut

    def spec(self) -> BackboneSpec:
        return tiny_cogvideox15_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return PairsDecoder(CogVideoXDecoder(tiny_cogvideox_vae().to(dtype)))

    def oracle(self, latents: Tensor) -> Tensor:
        """Decode as the pipeline does: without the latent frame that was put before the video."""
        vae = tiny_cogvideox_vae().to(latents.dtype)
        frames = 1 / vae.config.scaling_factor * unpaired(latents)[:, :, 1:]
        video: Tensor = vae.decode(frames, return_dict=False)[0]
        return video[0].transpose(0, 1).clamp(-1, 1)


def test_pairs_are_the_channels_of_both_frames() -> None:
    frames = torch.arange(2 * 5 * 2.0).view(1, 2, 5, 1, 2)
    pairs = paired(frames)
    assert pairs.shape == (1, 4, 3, 1, 2)
    assert torch.equal(pairs[:, 0::2, 1:], frames[:, :, 1::2])
    assert torch.equal(pairs[:, 1::2], frames[:, :, 0::2])
    assert torch.equal(unpaired(pairs)[:, :, 1:], frames)
    assert torch.equal(unpaired(pairs)[:, :, 0], frames[:, :, 0])


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    expected = replace(tiny_cogvideox15_spec(), name=f"{folder.path.name} (CogVideoXPipeline)")
    assert family.spec(folder) == expected
    assert isinstance(family.load_decoder(folder, CPU), PairsDecoder)


def test_an_image_is_encoded_to_pairs(folder: ModelFolder) -> None:
    frames = torch.randint(0, 256, (9, 16, 16, 3), generator=torch.Generator().manual_seed(2))
    found = CogVideoXFamily().encode_video(folder, frames.byte(), CPU)
    vae = tiny_cogvideox_vae()
    pixels = 2 * (frames.permute(3, 0, 1, 2)[None] / 255) - 1
    encoded = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    assert found.shape == (1, 8, 2, 2, 2)
    torch.testing.assert_close(unpaired(found)[:, :, 1:], encoded, rtol=0, atol=1e-5)


def test_an_image_stands_before_the_video_and_nothing_after_it() -> None:
    pair = torch.randn(1, 8, 1, 2, 3)
    told = unpaired(before_the_video(pair))
    assert torch.equal(told[:, :, 0], unpaired(pair)[:, :, 0])
    assert not told[:, :, 1].any()


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    noise = torch.randn(1, 8, PAIRS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    family, pipeline = CogVideoXFamily(), CogVideoXPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "prompt": PROMPTS[0],
        "negative_prompt": PROMPTS[1],
        "guidance_scale": scale,
        "height": HEIGHT * 8,
        "width": WIDTH * 8,
        "num_frames": 1 + 8 * (PAIRS - 1),
        "num_inference_steps": STEPS,
        "latents": unpaired(noise).transpose(1, 2),
        "max_sequence_length": tiny_cogvideox15_spec().text_tokens,
    }
    expected = folded(pipeline(**options, output_type="latent").frames.transpose(1, 2))
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_cogvideox15_denoising(case),
        tasks=FullSequence().tasks(Video(PAIRS, STEPS)),
        noise=iter([noise]),
    )
    found = serial_video(
        of_backbone(
            work,
            family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
            family.encode_text(folder, PROMPTS[: 1 + (scale > 1)], PLACE),
            sampler=load_sampler(folder, None, None, STEPS),
        )
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"
    # And the video: as many frames, each its own.
    decoder: AnyDecoder = family.load_decoder(folder, CPU)
    state = decoder.start()
    video = torch.cat([*decoder.decode(state, found), *decoder.finish(state)])
    whole = pipeline(**options, output_type="pt").frames[0] * 2 - 1
    assert video.shape == whole.shape == (1 + 8 * (PAIRS - 1), 3, HEIGHT * 8, WIDTH * 8)
    assert (video - whole).abs().max() <= 1e-4


def test_the_engine_makes_as_many_frames_as_asked_for(folder: ModelFolder) -> None:
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="red"),), num_frames=41, height=32, width=48)
    events = Engine(generation_config, SingleDevice()).generate(request)
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    video = torch.cat(frames)
    assert video.shape == (41, 32, 48, 3)
    assert video.float().std() > 1
