"""Wan 2.2 TI2V: a timestep per frame, its 16 times smaller latents, and a given first frame."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from torch import Tensor

from longtake.caches import NoCache
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    BackboneSpec,
    ConditioningFrames,
    DiffusersSampler,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.samplers.base import BlockSampler
from longtake.models.wan import WanBackbone, WanDecoder, WanFamily
from longtake.schedulers import FifoQueue, FullSequence
from longtake.task import Video
from longtake.testing.contracts import FrameLevelsContract, VideoDecoderContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_wan_transformer,
    wan_pictures,
)
from longtake.testing.tiny.wan_ti2v import (
    tiny_ti2v_backbone,
    tiny_ti2v_denoising,
    tiny_ti2v_folder,
    tiny_ti2v_spec,
    tiny_ti2v_vae,
)

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES, TOKENS = 4, 3, 8
PROMPTS = ["red shape moves left", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_ti2v_folder(tmp_path_factory.mktemp("ti2v"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(
    transformer: Any, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
) -> Tensor:
    """Run diffusers' own forward, which takes a timestep per token."""
    tokens = tiny_ti2v_spec().tokens_per_frame(HEIGHT, WIDTH)
    levels = torch.tensor(timesteps).repeat_interleave(tokens).expand(len(latents), -1)
    out: Tensor = transformer(latents, levels, prompts["states"], return_dict=False)[0]
    return out


class TestTI2VBackbone(FrameLevelsContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_ti2v_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def frame_oracle(
        self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
    ) -> Tensor:
        return forward(tiny_wan_transformer(), latents, timesteps, prompts)


class TestTI2VBackboneFromDisk(TestTI2VBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)


@pytest.mark.usefixtures("upsampling_keeps_float64")
class TestTI2VDecoder(VideoDecoderContract):
    bit_equal = ((5,),)  # at once, every call is one of diffusers' own

    def spec(self) -> BackboneSpec:
        return tiny_ti2v_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return WanDecoder(tiny_ti2v_vae().to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        return wan_pictures(tiny_ti2v_vae(), latents)


class TestTI2VDecoderFromDisk(TestTI2VDecoder):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return WanFamily().load_decoder(self.folder, CPU, dtype)


def load(folder: ModelFolder, layers: Collection[int] = range(LAYERS)) -> WanBackbone:
    family = WanFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), WanFamily)
    expected = replace(tiny_ti2v_spec(), name=f"{folder.path.name} (WanPipeline)")
    assert WanFamily().spec(folder) == expected


def full_sequence(
    folder: ModelFolder, scale: float, noise: Tensor, start: ConditioningFrames | None
) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts included."""
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    backbone = load(folder)
    prompts = PROMPTS[: case.workload.branches]
    text = backbone.condition_text(WanFamily().encode_text(folder, prompts, PLACE))
    work = replace(
        tiny_ti2v_denoising(case),
        backbone=backbone,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
        text=lambda _frames, _branches: text,
        start=start,
    )
    return serial_video(work)


def called(pipeline: Any, noise: Tensor, scale: float, **options: Any) -> Tensor:
    """Return the latents that diffusers' pipeline makes."""
    pipeline.set_progress_bar_config(disable=True)
    frames: Tensor = pipeline(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 16,
        width=WIDTH * 16,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scale,
        latents=noise,
        output_type="latent",
        max_sequence_length=TOKENS,
        **options,
    ).frames
    return frames


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    noise = starting_noise()
    expected = called(WanPipeline.from_pretrained(folder.path), noise, scale)
    found = full_sequence(folder, scale, noise, None)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_from_an_image_it_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    """The first frame stands in every window, clean and at timestep 0."""
    noise, size = starting_noise(), (HEIGHT * 16, WIDTH * 16, 3)
    picture = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(3)).byte()
    pipeline = WanImageToVideoPipeline.from_pipe(WanPipeline.from_pretrained(folder.path))
    expected = called(pipeline, noise, scale, image=Image.fromarray(picture.numpy()))
    start = ConditioningFrames(latents=WanFamily().encode_video(folder, picture[None], CPU))
    found = full_sequence(folder, scale, noise, start)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert torch.equal(found[:, :, :1], start.latents)
    without = full_sequence(folder, scale, noise, None)
    assert (found - without)[:, :, 1:].abs().max() > 0.1, "the image makes no difference"


@pytest.mark.parametrize("known", [0, 1, 6])
def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window(known: int) -> None:
    """With the true noise level of each frame: 0 of those that are finished or given."""
    case = TinyCase(scheduler=FifoQueue(3, 2, 2), cache=NoCache(), scales=(1.0,))
    prompts, model = tiny_prompts(1, 1), tiny_wan_transformer()
    given = torch.randn(1, 4, known, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(9))
    blocks = case.scheduler.blocks(case.latent_frames)
    fixed = [given[:, :, block.start : block.stop] for block in blocks]
    noise = tiny_denoising(case).noise
    latents = [held(block, clean) for block, clean in zip(noise, fixed, strict=True)]
    sampler = DiffusersSampler(tiny_scheduler(case.sampler), case.steps)
    levels, done = [*sampler.timesteps, 0.0], [0] * len(latents)
    states: dict[int, BlockSampler] = {}
    for task in case.scheduler.tasks(Video(case.latent_frames, case.steps)):
        b, first, stop = task.block, task.own[0], task.own[-1] + 1
        state = states.setdefault(b, sampler.start())
        seen = range(max(first - 2, 0), stop + (2 if b + 1 in states else 0))
        block_of = {frame: b + (frame >= stop) - (frame < first) for frame in seen}
        timesteps = [0.0 if f < known else levels[done[block_of[f]]] for f in seen]
        window = torch.cat(latents, dim=2)[:, :, seen.start : seen.stop]
        predicted = forward(model, window, timesteps, prompts)
        own = predicted[:, :, first - seen.start : stop - seen.start]
        latents[b] = held(state.step(own, latents[b]), fixed[b])
        done[b] += 1
    start = ConditioningFrames(latents=given) if known else None
    found = serial_video(replace(tiny_ti2v_denoising(case), start=start))
    expected = torch.cat(latents, dim=2)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert torch.equal(found[:, :, :known], given)


def held(latents: Tensor, clean: Tensor) -> Tensor:
    return torch.cat([clean, latents[:, :, clean.shape[2] :]], dim=2)


def starting_noise() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator)
