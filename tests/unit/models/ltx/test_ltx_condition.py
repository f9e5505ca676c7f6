"""LTX-Video since 0.9.5: contracts, noise levels, decoder, and the pipeline's own videos."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import LTXConditionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed
from PIL import Image
from tests.unit.models.ltx.test_ltx import frame_forward
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
from longtake.models.ltx import LTXConditionFamily, LTXDecoder
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import SingleDevice
from longtake.task import Video
from longtake.testing.contracts import FrameLevelsContract, VideoDecoderContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import HEIGHT, LAYERS, WIDTH, TinyCase, tiny_masked_prompts
from longtake.testing.tiny.ltx import (
    tiny_ltx_condition_backbone,
    tiny_ltx_condition_denoising,
    tiny_ltx_condition_folder,
    tiny_ltx_condition_vae,
    tiny_ltx_spec,
    tiny_ltx_transformer,
)

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ["red bird moves", "slow"]
RATES = torch.tensor([25, 1, 1], dtype=torch.float64)[None, :, None]
"""Video frames per second, and pixels as they are."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_ltx_condition_folder(tmp_path_factory.mktemp("ltx"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestLTXConditionBackbone(FrameLevelsContract):
    earliest = 1  # a video's first frame is nearer to the next one than any other

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_ltx_condition_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_masked_prompts(2)

    def frame_oracle(
        self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
    ) -> Tensor:
        return frame_forward(tiny_ltx_transformer(), latents, timesteps, prompts, lead=7)

    def test_the_first_latent_frame_is_one_video_frame_in_time(self) -> None:
        rope, positions = tiny_ltx_transformer().rope, self.load().positions
        assert positions is not None
        found = positions.table(self._grid(at=0))
        axes = [torch.arange(count) for count in (3, self.height, self.width)]
        ids = torch.cartesian_prod(*axes).T[None]
        pixels = LTXConditionPipeline._scale_video_ids(ids, device=CPU).double()
        expected = rope(torch.zeros(1), video_coords=pixels / RATES)
        for part, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(part.flatten(2), whole[..., ::2].float())


class TestLTXConditionBackboneFromDisk(TestLTXConditionBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        family = LTXConditionFamily()
        held = range(LAYERS) if layers is None else layers
        return family.load_backbone(self.folder, family.spec(self.folder), held, PLACE)

    def prompts(self) -> PromptStates:
        return LTXConditionFamily().encode_text(self.folder, PROMPTS, PLACE)


def latent_noise(latents: Tensor) -> Tensor:
    """Return the noise that is mixed into a video's latents, drawn frame by frame."""
    generator = torch.Generator().manual_seed(1)
    shape = (*latents.shape[:2], 1, *latents.shape[3:])
    frames = range(latents.shape[2])
    drawn = [torch.randn(shape, generator=generator, dtype=latents.dtype) for _ in frames]
    return torch.cat(drawn, dim=2)


@pytest.mark.usefixtures("norms_keep_float64")
class TestLTXConditionDecoder(VideoDecoderContract):
    height, width = 1, 2
    held_back = 5

    def spec(self) -> BackboneSpec:
        return tiny_ltx_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return LTXDecoder(tiny_ltx_condition_vae().to(dtype), 0.05, 0.025)

    def oracle(self, latents: Tensor) -> Tensor:
        """Decode as the pipeline does with the published timestep and share of noise."""
        vae = tiny_ltx_condition_vae().to(latents.dtype)
        mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
        noise = latent_noise(latents)
        noised = (1 - 0.025) * (latents * std / vae.config.scaling_factor + mean) + 0.025 * noise
        timestep = torch.tensor([0.05], dtype=latents.dtype)
        video: Tensor = vae.decode(noised, timestep, return_dict=False)[0]
        return video[0].transpose(0, 1).clamp(-1, 1)

    def test_the_timestep_and_the_noise_matter(self) -> None:
        latents = torch.randn(1, 4, 3, 1, 2, generator=torch.Generator().manual_seed(0))
        videos = []
        for options in ((0.05, 0.025), (0.0, 0.025), (0.05, 0.0)):
            decoder = LTXDecoder(tiny_ltx_condition_vae(), *options)
            state = decoder.start()
            frames = [*decoder.decode(state, latents), *decoder.finish(state)]
            videos.append(torch.cat(frames))
        for other in videos[1:]:
            assert (videos[0] - other).abs().max() > 1e-4


def test_a_folders_decoder_is_told_what_is_published(folder: ModelFolder) -> None:
    latents = torch.randn(1, 4, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    videos = []
    for decoder in (
        LTXConditionFamily().load_decoder(folder, CPU),
        LTXDecoder(tiny_ltx_condition_vae(), 0.05, 0.025),
    ):
        state = decoder.start()
        videos.append(torch.cat([*decoder.decode(state, latents), *decoder.finish(state)]))
    torch.testing.assert_close(*videos, rtol=0, atol=1e-5)  # aligned otherwise in memory


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), LTXConditionFamily)
    expected = replace(tiny_ltx_spec(), name=f"{folder.path.name} (LTXConditionPipeline)")
    assert LTXConditionFamily().spec(folder) == expected


def test_eight_steps_are_those_of_the_distilled_models(folder: ModelFolder) -> None:
    """The list that they are published with, to its three figures."""
    found = load_sampler(folder, None, None, 8).timesteps
    assert found == pytest.approx([1000, 993.7, 987.5, 981.2, 975, 909.4, 725, 421.9], abs=0.06)


def noise() -> Tensor:
    shape = (1, 4, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def float64_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pipeline's angles be of float64: its own are rounded to fp32, up to 0.001 off."""
    forward = LTXVideoRotaryPosEmbed.forward

    def exact(rope: Any, hidden: Tensor, *sizes: Any) -> Any:
        return forward(rope, hidden, *sizes[:-1], video_coords=(sizes[-1] * RATES).round() / RATES)

    monkeypatch.setattr(LTXVideoRotaryPosEmbed, "forward", exact)


def called(folder: ModelFolder, scale: float, **options: Any) -> Tensor:
    """Return the latents that diffusers' pipeline makes, ``(1, C, F, H, W)``."""
    pipeline = LTXConditionPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    frames: Tensor = pipeline(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        guidance_scale=scale,
        height=HEIGHT * 32,
        width=WIDTH * 32,
        num_frames=1 + 8 * (FRAMES - 1),
        num_inference_steps=STEPS,
        image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **options,
    ).frames
    return frames


def full_sequence(
    folder: ModelFolder, scale: float, start: ConditioningFrames | None = None
) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts included."""
    family = LTXConditionFamily()
    states = family.encode_text(folder, PROMPTS, PLACE)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_ltx_condition_denoising(case, prompts=states),
        backbone=family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=load_sampler(folder, None, None, STEPS),
        start=start,
    )
    return serial_video(work)


@pytest.mark.usefixtures("float64_angles")
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    expected = called(folder, scale)
    found = full_sequence(folder, scale)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise()).abs().max() > 0.1, "nothing has been denoised"


@pytest.mark.usefixtures("float64_angles")
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_from_an_image_it_is_the_pipeline(
    folder: ModelFolder, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline draws a sample of the image's latents; here both have their mean."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean
    )
    size = (HEIGHT * 32, WIDTH * 32, 3)
    picture = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(3)).byte()
    start = ConditioningFrames(
        latents=LTXConditionFamily().encode_video(folder, picture[None], CPU)
    )
    expected = called(folder, scale, image=Image.fromarray(picture.numpy()))
    found = full_sequence(folder, scale, start)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    without = full_sequence(folder, scale)
    assert (found - without)[:, :, 1:].abs().max() > 0.1, "the image makes no difference"


def test_the_engine_makes_as_many_frames_as_asked_for(folder: ModelFolder) -> None:
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="red"),), num_frames=41, height=64, width=96)
    events = Engine(generation_config, SingleDevice()).generate(request)
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    video = torch.cat(frames)
    assert video.shape == (41, 64, 96, 3)
    assert video.float().std() > 1
