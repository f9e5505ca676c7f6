"""LTX-Video: its contracts, its loader, its noise levels, and runs equal to the pipeline's."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from PIL import Image
from torch import Tensor

from longtake.caches import (
    Chunk,
    FeatureCache,
    FeatureStore,
    NextBlockKV,
    NoCache,
    SameStepKV,
)
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    SamplerSettings,
    family_of,
    load_sampler,
)
from longtake.models.ltx import LTXBackbone, LTXFamily
from longtake.models.samplers.scheduler_checks import flow_error
from longtake.models.text import move_prompts
from longtake.plan.cost.profiles import profile
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.strategies import SingleDevice
from longtake.task import FrameRange, Video
from longtake.testing.contracts import FrameLevelsContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import HEIGHT, LAYERS, WIDTH, TinyCase, tiny_masked_prompts
from longtake.testing.tiny.ltx import (
    HEAD_DIM,
    HEADS,
    tiny_ltx_backbone,
    tiny_ltx_denoising,
    tiny_ltx_folder,
    tiny_ltx_scheduler,
    tiny_ltx_spec,
    tiny_ltx_transformer,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ["red bird moves", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_ltx_folder(tmp_path_factory.mktemp("ltx"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def places(frames: int, height: int, width: int, lead: int = 0) -> Tensor:
    """Return seconds and pixels of every token, ``(1, 3, S)``.

    In float64: diffusers' own are fp32, and so are its angles, which are off by 0.001 then.
    Since LTX-Video 0.9.5 all frames but the first are 7 video frames earlier (``lead``).
    """
    axes = [torch.arange(count, dtype=torch.float64) for count in (frames, height, width)]
    grid = torch.cartesian_prod(*axes) * torch.tensor([8, 32, 32], dtype=torch.float64)
    grid[:, 0] = (grid[:, 0] - lead).clamp(min=0) / 25
    return grid.T[None]


def forward(
    transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates, lead: int = 0
) -> Tensor:
    """Run diffusers' own forward."""
    return frame_forward(transformer, latents, [timestep] * latents.shape[2], prompts, lead)


def frame_forward(
    transformer: Any,
    latents: Tensor,
    timesteps: Sequence[float],
    prompts: PromptStates,
    lead: int = 0,
) -> Tensor:
    """Run diffusers' own forward, which takes a timestep per token."""
    rows, _, frames, height, width = latents.shape
    levels = torch.tensor(timesteps).repeat_interleave(height * width)
    out: Tensor = transformer(
        latents.flatten(2).transpose(1, 2),
        prompts["states"],
        levels.expand(rows, -1),
        prompts["mask"],
        video_coords=places(frames, height, width, lead).expand(rows, -1, -1),
        return_dict=False,
    )[0]
    return out.transpose(1, 2).reshape(rows, -1, frames, height, width)


def load(folder: ModelFolder, layers: Collection[int]) -> LTXBackbone:
    family = LTXFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


class TestLTXBackbone(FrameLevelsContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_ltx_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_masked_prompts(2)

    def frame_oracle(
        self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
    ) -> Tensor:
        return frame_forward(tiny_ltx_transformer(), latents, timesteps, prompts)

    def test_the_prompts_are_of_different_length(self) -> None:
        assert self.load().condition_text(self.prompts()).padding == (2, 3)

    def test_rotary_positions_are_diffusers_own(self) -> None:
        """Of the frames of a late window, the pair that stands still included."""
        rope, positions = tiny_ltx_transformer().rope, self.load().positions
        assert positions is not None
        found = positions.table(self._grid(at=40))
        coordinates = places(43, self.height, self.width)[..., -self._tokens(3) :]
        expected = rope(torch.zeros(1), video_coords=coordinates)
        for part, whole in zip(found, expected, strict=True):
            assert part.shape == (1, self._tokens(3), HEADS, HEAD_DIM // 2)
            torch.testing.assert_close(part.flatten(2), whole[..., ::2].float())


class TestLTXBackboneFromDisk(TestLTXBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return LTXFamily().encode_text(self.folder, PROMPTS, PLACE)

    def test_the_prompts_are_of_different_length(self) -> None:
        # Of 128 tokens: the words and </s>.
        assert self.load().condition_text(self.prompts()).padding == (124, 126)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), LTXFamily)
    expected = replace(tiny_ltx_spec(), name=f"{folder.path.name} (LTXPipeline)")
    assert LTXFamily().spec(folder) == expected


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    held = load(folder, layers)._transformer.state_dict()
    whole = tiny_ltx_transformer().state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "transformer_blocks"} == set(layers)
    first = {"proj_in"} if 0 in layers else set()
    last = {"proj_out"} if LAYERS - 1 in layers else set()
    everywhere = {"transformer_blocks", "time_embed", "caption_projection", "scale_shift_table"}
    assert {p[0] for p in parts} == everywhere | first | last


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    expected = LTXVideoTransformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    place = Placement(CPU, torch.bfloat16)
    spec = LTXFamily().spec(folder)
    backbone = LTXFamily().load_backbone(folder, spec, range(LAYERS), place)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(tiny_masked_prompts(1), place)
    whole = forward(expected, latents.bfloat16(), 900.0, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 900.0, prompts).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def pipeline(folder: ModelFolder) -> Any:
    pipeline = LTXPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_the_pipeline_does(folder: ModelFolder) -> None:
    prompts = ["a red bird", "", *["blue sea"] * 8]
    found = LTXFamily().encode_text(folder, prompts, PLACE)
    states, mask, _, _ = pipeline(folder).encode_prompt(prompts, do_classifier_free_guidance=False)
    assert torch.equal(found["mask"], mask)
    assert found["mask"].sum(dim=1)[:3].tolist() == [4, 1, 3]
    # Batches of another size.
    torch.testing.assert_close(found["states"], states, rtol=1e-5, atol=1e-6)


def noise() -> Tensor:
    shape = (1, 4, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def called(pipeline: Any, latents: Tensor, scale: float, **options: Any) -> Tensor:
    """Return the latents that diffusers' pipeline makes, ``(1, C, F, H, W)``."""
    pipeline.set_progress_bar_config(disable=True)
    frames: Tensor = pipeline(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        guidance_scale=scale,
        height=HEIGHT * 32,
        width=WIDTH * 32,
        num_frames=1 + 8 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=latents.flatten(2).transpose(1, 2),
        output_type="latent",
        **options,
    ).frames
    return frames.transpose(1, 2).reshape(1, -1, FRAMES, HEIGHT, WIDTH)


def full_sequence(
    folder: ModelFolder, scale: float, start: ConditioningFrames | None = None
) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts included."""
    states = LTXFamily().encode_text(folder, PROMPTS, PLACE)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_ltx_denoising(case, prompts=states),
        backbone=load(folder, range(LAYERS)),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=load_sampler(folder, None, None, STEPS, tokens=FRAMES * HEIGHT * WIDTH),
        start=start,
    )
    return serial_video(work)


@pytest.fixture
def float64_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pipeline's angles be of float64: its own are rounded to fp32, up to 0.001 off."""
    bases = torch.tensor([20, 2048, 2048], dtype=torch.float64)

    def coordinates(_rope: Any, _rows: int, *size: int, **_: Any) -> Tensor:
        return places(*size).transpose(1, 2) / bases

    monkeypatch.setattr(LTXVideoRotaryPosEmbed, "_prepare_video_coords", coordinates)


@pytest.mark.usefixtures("float64_angles")
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    expected = called(pipeline(folder), noise(), scale)
    found = full_sequence(folder, scale)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise()).abs().max() > 0.1, "nothing has been denoised"


def test_a_full_sequence_is_the_pipeline_but_for_its_rounded_angles(folder: ModelFolder) -> None:
    expected = called(pipeline(folder), noise(), 3.0)
    found = full_sequence(folder, 3.0)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-4


@pytest.mark.usefixtures("float64_angles")
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_from_an_image_it_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    """The first frame stands in every window, clean and at timestep 0.

    The pipeline draws a sample of the image's latents; here both have their mean.
    """
    size = (HEIGHT * 32, WIDTH * 32, 3)
    picture = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(3)).byte()
    start = ConditioningFrames(latents=LTXFamily().encode_video(folder, picture[None], CPU))
    latents = torch.cat([start.latents, noise()[:, :, 1:]], dim=2)
    from_image = LTXImageToVideoPipeline.from_pipe(pipeline(folder))
    expected = called(from_image, latents, scale, image=Image.fromarray(picture.numpy()))
    found = full_sequence(folder, scale, start)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert torch.equal(found[:, :, :1], start.latents)
    without = full_sequence(folder, scale)
    assert (found - without)[:, :, 1:].abs().max() > 0.1, "the image makes no difference"


@pytest.mark.parametrize(("tokens", "shift"), [(1024, 0.95), (4096, 2.05), (7392, 3.2302)])
def test_noise_levels_are_shifted_by_the_clips_size(
    folder: ModelFolder, tokens: int, shift: float
) -> None:
    """As the pipeline does; a shift that the user asks for is kept whatever the size."""
    sigmas = LTXFamily().sigmas(8)
    assert calculate_shift(tokens, 1024, 4096, 0.95, 2.05) == pytest.approx(shift, abs=1e-4)
    scheduler = tiny_ltx_scheduler()
    scheduler.set_timesteps(sigmas=sigmas, mu=shift)
    expected = pytest.approx(scheduler.timesteps.tolist(), abs=0.01)
    found = load_sampler(folder, None, None, 8, tokens)
    assert found.timesteps == expected
    assert flow_error(found, SamplerSettings(steps=8)) < 1e-6
    assert load_sampler(folder, None, math.exp(shift), 8).timesteps == expected
    unipc = load_sampler(folder, "UniPCMultistepScheduler", None, 8, tokens)
    # It counts whole timesteps, between exact noise levels.
    assert unipc.timesteps == pytest.approx(scheduler.timesteps.tolist(), abs=1.01)


@pytest.mark.parametrize(
    ("scheduler", "frames", "clip"),
    [
        (FifoQueue(), 33, 5),
        (FifoQueue(), 161, 21),
        (FifoQueue(), 1601, 21),
        (FifoQueue(), None, 21),
        (FullSequence(), 33, 5),
        (FullSequence(), 257, 33),
        (FifoQueue(block_frames=40), 257, 33),
        (FifoQueue(block_frames=16), 257, 21),
    ],
)
def test_a_request_is_shifted_as_its_clips_are(
    folder: ModelFolder, scheduler: BlockScheduler, frames: int | None, clip: int
) -> None:
    """One clip by all its frames, as in the pipeline; a queue by no more than a native clip."""
    generation_config = GenerationConfig(pipeline=str(folder.path), scheduler=scheduler, steps=8)
    model = ResolvedModel(generation_config, Placement(CPU, torch.float32))
    workloads = Workloads(model, profile("cpu"))
    request = Request(prompts=(PromptAt(text="red"),), num_frames=frames, height=512, width=704)
    expected = load_sampler(folder, None, None, 8, clip * 16 * 22)
    assert workloads.sampler(request).timesteps == expected.timesteps
    config = folder.config("scheduler")
    number = calculate_shift(
        clip * 16 * 22,
        config["base_image_seq_len"],
        config["max_image_seq_len"],
        config["base_shift"],
        config["max_shift"],
    )
    assert workloads.flow_shift(request) == pytest.approx(math.exp(number), rel=1e-12)
    assert model.fixed_flow_shift is None


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_queue_runs(cache: FeatureCache, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    put = FeatureStore.put

    def noting(store: FeatureStore, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        kept.append(k.shape[1])
        put(store, chunk, layer, k, v)

    monkeypatch.setattr(FeatureStore, "put", noting)
    video = serial_video(tiny_ltx_denoising(TinyCase(cache=cache, scales=(scale,))))
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    context = 2 * HEIGHT * WIDTH
    # A frame of both contexts is kept once, apart from what the older block alone reads.
    parts = {NoCache: set(), NextBlockKV: {context}, SameStepKV: {context // 2, context}}
    assert set(kept) == parts[type(cache)]


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
