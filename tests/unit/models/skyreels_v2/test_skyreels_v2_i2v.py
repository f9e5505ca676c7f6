"""SkyReels-V2 image to video: its backbone's contract, and the pipeline of diffusers as oracle."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline
from PIL import Image
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    DiffusersSampler,
    GivenFrames,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_scheduler,
)
from longtake.models.skyreels_v2 import SkyReelsV2Family
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
from longtake.testing.tiny.parts import of_backbone
from longtake.testing.tiny.skyreels_v2 import (
    tiny_skyreels_folder,
    tiny_skyreels_i2v_backbone,
    tiny_skyreels_i2v_folder,
    tiny_skyreels_i2v_spec,
    tiny_skyreels_i2v_transformer,
)
from longtake.testing.tiny.wan_i2v import TEXT_TOKENS, tiny_start, tiny_wan_i2v_prompts

PLACE = Placement(torch.device("cpu"), torch.float32)
STEPS, FRAMES = 3, 3
PROMPTS = ["red shape moves left", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_skyreels_i2v_folder(tmp_path_factory.mktemp("i2v"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestSkyReelsI2VBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_skyreels_i2v_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_wan_i2v_prompts(2)

    def start(self) -> ConditioningFrames:
        return tiny_start(described=1)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        given = self.start().channels
        assert given is not None
        beside = given.expand(len(latents), -1, latents.shape[2], -1, -1)
        out: Tensor = tiny_skyreels_i2v_transformer()(
            torch.cat([latents, beside], dim=1),
            torch.full((len(latents),), timestep),
            prompts["states"],
            prompts["image"],
            return_dict=False,
        )[0]
        return out


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    assert isinstance(family, SkyReelsV2Family)
    spec, tiny = family.spec(folder), tiny_skyreels_i2v_spec()
    assert replace(spec, name=tiny.name) == tiny
    assert family.card(folder).start == "always"
    assert (family.defaults(folder).guidance_scale, family.defaults(folder).frames) == (5.0, 97)


def test_a_transformer_of_the_other_kind_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    text = tiny_skyreels_folder(tmp_path, diffusion_forcing=False)
    for other, pipeline in (
        (folder, "SkyReelsV2Pipeline"),
        (text, "SkyReelsV2ImageToVideoPipeline"),
    ):
        index = other.index | {"_class_name": pipeline}
        with pytest.raises(ModelError, match=rf"is a {pipeline} whose transformer has"):
            SkyReelsV2Family().spec(ModelFolder(other.path, index))


def noise() -> Tensor:
    shape = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (HEIGHT * 8, WIDTH * 8, 3), generator=generator).byte()


def full_sequence(folder: ModelFolder, image: Tensor, scale: float) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts and image included."""
    family, case = (
        SkyReelsV2Family(),
        TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,)),
    )
    spec = family.spec(folder)
    start = family.encode_given(folder, spec, GivenFrames(start=image[None]), PLACE)
    states = family.encode_text(folder, PROMPTS, PLACE) | start.prompt_rows(2)
    work = of_backbone(
        tiny_denoising(case),
        family.load_backbone(folder, spec, range(LAYERS), PLACE),
        states,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=DiffusersSampler(load_scheduler(folder, None, None), STEPS),
        start=start,
    )
    return serial_video(work)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    pipeline = SkyReelsV2ImageToVideoPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=Image.fromarray(picture(1).numpy()),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scale,
        latents=noise(),
        output_type="latent",
        max_sequence_length=TEXT_TOKENS,
    ).frames
    found = full_sequence(folder, picture(1), scale)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = full_sequence(folder, picture(2), scale)
    assert (found - other).abs().max() > 1e-2 * expected.abs().max(), "the image is not seen"


@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=repr)
def test_a_queue_of_blocks_sees_the_image(cache: FeatureCache) -> None:
    case, videos = TinyCase(cache=cache), []
    for seed in (0, 1):
        backbone, start = tiny_skyreels_i2v_backbone(), tiny_start(seed=seed)
        prompts = tiny_wan_i2v_prompts(2)
        videos.append(
            serial_video(of_backbone(tiny_denoising(case), backbone, prompts, start=start))
        )
    assert videos[0].shape == (1, CHANNELS, 11, HEIGHT, WIDTH)
    assert videos[0].isfinite().all()
    assert not torch.allclose(videos[0][:, :, -3:], videos[1][:, :, -3:], rtol=1e-2)
