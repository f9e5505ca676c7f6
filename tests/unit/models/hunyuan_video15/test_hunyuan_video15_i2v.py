"""HunyuanVideo 1.5 image to video: an image's tokens and channels, the pipeline, its encoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15ImageToVideoPipeline
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor
from PIL import Image
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
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
from longtake.models.hunyuan_video15 import HunyuanVideo15Family
from longtake.models.hunyuan_video15.encoder import HunyuanVideo15Encoder
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
)
from longtake.testing.tiny.hunyuan_video15 import (
    IMAGE_DIM,
    IMAGE_TOKENS,
    tiny_hunyuan15_backbone,
    tiny_hunyuan15_i2v_folder,
    tiny_hunyuan15_prompts,
    tiny_hunyuan15_transformer,
    tiny_hunyuan15_vae,
)
from longtake.testing.tiny.parts import of_backbone

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 3, 3
PROMPTS = ['red bird moves "sea"', "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan15_i2v_folder(tmp_path_factory.mktemp("i2v"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def made_up_start(seed: int = 0) -> ConditioningFrames:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, CHANNELS + 1, 1, HEIGHT, WIDTH)
    return ConditioningFrames(
        latents=torch.randn(1, CHANNELS, 1, HEIGHT, WIDTH, generator=generator),
        channels=torch.randn(shape, generator=generator),
    )


def made_up_prompts(rows: int = 2) -> PromptStates:
    generator = torch.Generator().manual_seed(7)
    image = torch.randn(rows, IMAGE_TOKENS, IMAGE_DIM, generator=generator)
    return {**tiny_hunyuan15_prompts(rows), "image": image}


class TestHunyuanVideo15I2VBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_hunyuan15_backbone(range(LAYERS) if layers is None else layers, image=True)

    def prompts(self) -> PromptStates:
        return made_up_prompts()

    def start(self) -> ConditioningFrames:
        return made_up_start()

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        given, rows = self.start().channels, len(latents)
        assert given is not None
        beside = given.expand(rows, -1, latents.shape[2], -1, -1)
        out: Tensor = tiny_hunyuan15_transformer()(
            torch.cat((latents, beside), dim=1),
            torch.full((rows,), timestep),
            prompts["states"],
            prompts["mask"],
            encoder_hidden_states_2=prompts["glyphs"],
            encoder_attention_mask_2=prompts["glyphs_mask"],
            image_embeds=prompts["image"],
            return_dict=False,
        )[0]
        return out


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    assert isinstance(family, HunyuanVideo15Family)
    spec = family.spec(folder)
    assert (spec.start, spec.text_tokens) == ("channels", 1000 + 256 + IMAGE_TOKENS)
    assert family.card(folder).start == "always"
    blank = family.blank_start(folder, spec, HEIGHT, WIDTH)
    assert blank is not None
    assert blank.prompts["image"].shape == (1, IMAGE_TOKENS, IMAGE_DIM)


def noise() -> Tensor:
    shape = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (HEIGHT * 16, WIDTH * 16, 3), generator=generator).byte()


def full_sequence(folder: ModelFolder, image: Tensor, scale: float) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts and image included."""
    family, case = (
        HunyuanVideo15Family(),
        TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,)),
    )
    spec = family.spec(folder)
    start = family.encode_given(folder, spec, GivenFrames(start=image[None]), PLACE)
    work = of_backbone(
        tiny_denoising(case),
        family.load_backbone(folder, spec, range(LAYERS), PLACE),
        family.encode_text(folder, PROMPTS, PLACE) | start.prompt_rows(2),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=load_sampler(folder, None, None, STEPS),
        start=start,
    )
    return serial_video(work)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(
    folder: ModelFolder, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the picture's own size: the pipeline would choose one of those of the real model."""
    monkeypatch.setattr(
        HunyuanVideo15ImageProcessor,
        "calculate_default_height_width",
        lambda *_, **__: (HEIGHT * 16, WIDTH * 16),
    )
    pipeline: Any = HunyuanVideo15ImageToVideoPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.guider = pipeline.guider.new(guidance_scale=scale)
    expected = pipeline(
        image=Image.fromarray(picture(1).numpy()),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise(),
        output_type="latent",
    ).frames
    found = full_sequence(folder, picture(1), scale)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = full_sequence(folder, picture(2), scale)
    assert (found - other).abs().max() > 1e-2 * expected.abs().max(), "the image is not seen"


@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_a_stream_is_encoded_as_the_whole(latent_frames: int) -> None:
    vae: Any = tiny_hunyuan15_vae().double()
    frames = torch.randint(0, 256, (1 + 4 * (latent_frames - 1), 32, 48, 3), dtype=torch.uint8)
    pixels = 2 * (frames.permute(3, 0, 1, 2)[None].double() / 255) - 1
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    found = HunyuanVideo15Encoder(vae, 31).encode(frames)
    assert found.shape == (1, CHANNELS, latent_frames, 2, 3)
    assert (found - expected).abs().max() <= 1e-10


def test_a_folders_encoder_is_read_alone(folder: ModelFolder) -> None:
    frames = torch.randint(0, 256, (5, 32, 48, 3), dtype=torch.uint8)
    vae: Any = AutoencoderKLHunyuanVideo15.from_pretrained(folder.path / "vae")
    pixels = 2 * (frames.permute(3, 0, 1, 2)[None] / 255) - 1
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    found = HunyuanVideo15Family().encode_video(folder, frames, CPU)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=repr)
def test_a_queue_of_blocks_sees_the_image(cache: FeatureCache) -> None:
    videos = []
    for seed in (0, 1):
        backbone = tiny_hunyuan15_backbone(image=True)
        work = tiny_denoising(TinyCase(cache=cache))
        start = made_up_start(seed)
        videos.append(serial_video(of_backbone(work, backbone, made_up_prompts(), start=start)))
    assert videos[0].shape == (1, CHANNELS, 11, HEIGHT, WIDTH)
    assert videos[0].isfinite().all()
    assert not torch.allclose(videos[0][:, :, -3:], videos[1][:, :, -3:], rtol=1e-2)
