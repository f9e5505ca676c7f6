"""SkyReels-V2: its contracts, its loader, and queues in which every frame has its own level."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    BackboneSpec,
    ConditioningFrames,
    DiffusersSampler,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.samplers.base import BlockSampler
from longtake.models.skyreels_v2 import SkyReelsV2Family
from longtake.models.text import move_prompts
from longtake.models.wan import WanBackbone
from longtake.models.wan.backbone import WanStep
from longtake.schedulers import FifoQueue, FullSequence
from longtake.task import FrameRange, Video
from longtake.testing.contracts import (
    BackboneContract,
    FrameLevelsContract,
    VideoDecoderContract,
)
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_wan_vae,
    wan_pictures,
)
from longtake.testing.tiny.skyreels_v2 import (
    tiny_skyreels_backbone,
    tiny_skyreels_denoising,
    tiny_skyreels_folder,
    tiny_skyreels_spec,
    tiny_skyreels_transformer,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES, TOKENS = 4, 3, 8
PROMPTS = ["red shape moves left", "slow"]
FORCING, UNIPC = "SkyReelsV2DiffusionForcingPipeline", "UniPCMultistepScheduler"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_skyreels_folder(tmp_path_factory.mktemp("forcing"), shard_size="20KB")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_skyreels_folder(tmp_path_factory.mktemp("clips"), diffusion_forcing=False)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(
    transformer: Any, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
) -> Tensor:
    """Run diffusers' own forward, a timestep per frame; it embeds frame rates of one row only."""
    rows = [
        transformer(
            row[None],
            torch.tensor([timesteps]),
            states[None],
            enable_diffusion_forcing=True,
            fps=[1],  # as the pipeline does for 24 frames per second
            return_dict=False,
        )[0]
        for row, states in zip(latents, prompts["states"], strict=True)
    ]
    return torch.cat(rows)


def load(folder: ModelFolder, layers: Collection[int] = range(LAYERS)) -> WanBackbone:
    family = SkyReelsV2Family()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


@pytest.mark.parametrize(("fps", "kind"), [(16, 0), (24, 1), (30, 1)])
def test_the_model_is_told_the_frame_rate(fps: int, kind: int) -> None:
    """As the pipeline does: its own class for 16 frames per second."""
    backbone = tiny_skyreels_backbone(range(LAYERS))
    (transformer,) = backbone._experts
    embedding = transformer.fps_embedding(torch.tensor([kind]))
    expected = transformer.fps_projection(embedding).unflatten(1, (6, -1))
    assert torch.equal(torch.as_tensor(backbone.at_rate(fps)._added), expected)
    assert backbone.at_rate(fps).spec is backbone.spec


class TestSkyReelsV2Backbone(FrameLevelsContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_skyreels_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def frame_oracle(
        self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
    ) -> Tensor:
        return forward(tiny_skyreels_transformer(), latents, timesteps, prompts)


class TestSkyReelsV2BackboneFromDisk(TestSkyReelsV2Backbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)


class TestSkyReelsV2OfClips(BackboneContract):
    """A model that was not trained with diffusion forcing."""

    @pytest.fixture(autouse=True)
    def _folder(self, clips: ModelFolder) -> None:
        self.folder = clips

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        model = tiny_skyreels_transformer(inject_sample_info=False)
        timesteps = torch.full((len(latents),), timestep)
        found: Tensor = model(latents, timesteps, prompts["states"], return_dict=False)[0]
        return found


@pytest.mark.usefixtures("upsampling_keeps_float64")
class TestSkyReelsV2Decoder(VideoDecoderContract):
    bit_equal = ((5,),)  # at once, every call is one of diffusers' own

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def spec(self) -> BackboneSpec:
        return tiny_skyreels_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return SkyReelsV2Family().load_decoder(self.folder, CPU, dtype)

    def oracle(self, latents: Tensor) -> Tensor:
        return wan_pictures(tiny_wan_vae(), latents)


def test_the_spec_is_read_from_the_configuration(
    folder: ModelFolder, clips: ModelFolder, tmp_path: Path
) -> None:
    assert isinstance(family_of(folder), SkyReelsV2Family)
    expected = replace(tiny_skyreels_spec(), name=f"{folder.path.name} ({FORCING})")
    assert SkyReelsV2Family().spec(folder) == expected
    assert SkyReelsV2Family().spec(clips).timestep == "clip"
    causal = tiny_skyreels_folder(tmp_path / "causal", num_frame_per_block=5)
    with pytest.raises(ModelError, match="has num_frame_per_block 5, causal attention"):
        SkyReelsV2Family().spec(causal)


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    held = load(folder, layers)._experts[0].state_dict()
    whole = tiny_skyreels_transformer().state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(part[1]) for part in parts if part[0] == "blocks"} == set(layers)
    everywhere = {"blocks", "condition_embedder", "fps_embedding", "fps_projection"}
    first = {"patch_embedding"} if 0 in layers else set()
    last = {"proj_out", "scale_shift_table"} if LAYERS - 1 in layers else set()
    assert {part[0] for part in parts} == everywhere | first | last


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    expected = SkyReelsV2Transformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    family, place = SkyReelsV2Family(), Placement(CPU, torch.bfloat16)
    backbone = family.load_backbone(folder, family.spec(folder), range(LAYERS), place)
    found = {key: tensor.dtype for key, tensor in backbone._experts[0].state_dict().items()}
    assert found == {key: tensor.dtype for key, tensor in expected.state_dict().items()}
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    prompts = move_prompts(tiny_prompts(1), place)
    levels = [0.0, 120.0, 950.0]
    whole = forward(expected, latents.bfloat16(), levels, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    predicted = Run(backbone, grid, levels, prompts).predict(latents)
    torch.testing.assert_close(predicted, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def pipeline(folder: ModelFolder) -> Any:
    forcing = folder.pipeline == FORCING
    which = SkyReelsV2DiffusionForcingPipeline if forcing else SkyReelsV2Pipeline
    pipeline = which.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_the_pipeline_does(folder: ModelFolder) -> None:
    prompts = ["a  red bird ", "", *["blue sea"] * 8]
    found = SkyReelsV2Family().encode_text(folder, prompts, PLACE)["states"]
    expected, _ = pipeline(folder).encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=TOKENS
    )
    # Batches of another size.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


class Remembering(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC that remembers the sample as it was.

    The diffusion forcing pipeline writes a step's result into the very tensor that the solver
    remembers as the sample before the step, which its second step then corrects wrongly.
    """

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        return super().step(prediction, timestep, sample.clone(), **options)


def called(pipeline: Any, noise: Tensor, scale: float, **options: Any) -> Tensor:
    """Return the latents that diffusers' pipeline makes."""
    frames: Tensor = pipeline(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scale,
        latents=noise.clone(),
        output_type="latent",
        max_sequence_length=TOKENS,
        **options,
    ).frames
    return frames


def full_sequence(
    folder: ModelFolder, noise: Tensor, scale: float, start: ConditioningFrames | None
) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts included."""
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    backbone = load(folder)
    prompts = PROMPTS[: case.workload.branches]
    text = backbone.condition_text(SkyReelsV2Family().encode_text(folder, prompts, PLACE))
    work = replace(
        tiny_skyreels_denoising(case),
        backbone=backbone,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
        text=lambda _frames, _branches: text,
        start=start,
    )
    return serial_video(work)


def starting_noise() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own, DPM-Solver
@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize(
    ("forcing", "sampler"), [(True, UNIPC), (True, "DPMSolverMultistepScheduler"), (False, UNIPC)]
)
def test_a_full_sequence_is_the_pipeline(
    forcing: bool, sampler: str, scale: float, tmp_path: Path
) -> None:
    """Diffusion forcing with the pipeline's synchronous schedule, and a model of clips."""
    folder = tiny_skyreels_folder(tmp_path, diffusion_forcing=forcing, sampler=sampler)
    oracle, noise = pipeline(folder), starting_noise()
    if forcing:
        # It cannot take latents of its own (diffusers 0.42): it would unpack them.
        oracle.prepare_latents = lambda *_, **__: (noise.clone(), FRAMES, None, 0)
        if sampler == UNIPC:
            oracle.scheduler = Remembering.from_config(oracle.scheduler.config)
    expected = called(oracle, noise, scale)
    found = full_sequence(folder, noise, scale, None)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


def test_from_an_image_it_is_the_pipeline(folder: ModelFolder) -> None:
    """The first frame stands in every window, clean and at timestep 0."""
    noise, size = starting_noise(), (HEIGHT * 8, WIDTH * 8, 3)
    picture = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(3)).byte()
    oracle = SkyReelsV2DiffusionForcingImageToVideoPipeline(**pipeline(folder).components)
    oracle.set_progress_bar_config(disable=True)
    oracle.scheduler = Remembering.from_config(oracle.scheduler.config)
    expected = called(oracle, noise, 6.0, image=Image.fromarray(picture.numpy()))
    start = ConditioningFrames(latents=SkyReelsV2Family().encode_video(folder, picture[None], CPU))
    found = full_sequence(folder, noise, 6.0, start)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    without = full_sequence(folder, noise, 6.0, None)
    assert (found - without)[:, :, 1:].abs().max() > 0.1, "the image makes no difference"


@pytest.mark.parametrize("stride", [1, 2])
def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window(stride: int) -> None:
    """With the true noise level of each frame: a finished block's is 0."""
    case = TinyCase(scheduler=FifoQueue(3, 2, stride), cache=NoCache(), scales=(1.0,))
    prompts, model = tiny_prompts(1, 1), tiny_skyreels_transformer()
    latents = list(tiny_denoising(case).noise)
    sampler = DiffusersSampler(tiny_scheduler(case.sampler), case.steps)
    levels = [*sampler.timesteps, 0.0]
    states: dict[int, BlockSampler] = {}
    done, seen = [0] * len(latents), set()
    for task in case.scheduler.tasks(Video(case.latent_frames, case.steps)):
        b = task.block
        state = states.setdefault(b, sampler.start())
        parts = {b: latents[b]}
        if b:
            parts[b - 1] = latents[b - 1][:, :, -2:]
        if b + 1 in states:
            parts[b + 1] = latents[b + 1][:, :, :2]
        window = torch.cat([parts[block] for block in sorted(parts)], dim=2)
        timesteps = [levels[done[block]] for block in sorted(parts) for _ in parts[block][0, 0]]
        predicted = forward(model, window, timesteps, prompts)
        before = parts[b - 1].shape[2] if b else 0
        latents[b] = state.step(predicted[:, :, before:][:, :, : len(task.own)], latents[b])
        done[b] += 1
        seen.add(tuple(dict.fromkeys(timesteps)))
    assert any(len(kinds) == 1 + stride for kinds in seen), "no window has several levels"
    assert any(0.0 in kinds for kinds in seen), "no window sees a finished block"
    found, expected = serial_video(tiny_skyreels_denoising(case)), torch.cat(latents, dim=2)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_level_is_embedded_once_and_joined_only_where_levels_differ(
    cache: FeatureCache, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[float] = []
    joined: list[tuple[list[int], list[int]]] = []
    known: dict[int, int] = {}
    condition, join = WanBackbone.condition_step, WanBackbone.join_steps

    def noting(backbone: WanBackbone, timestep: float, guidance: float) -> WanStep:
        step = condition(backbone, timestep, guidance)
        known[id(step)] = len(embedded)
        embedded.append(timestep)
        return step

    def noting_join(
        backbone: WanBackbone, steps: Sequence[WanStep], tokens: Sequence[int]
    ) -> WanStep:
        joined.append(([known[id(step)] for step in steps], list(tokens)))
        return join(backbone, steps, tokens)

    monkeypatch.setattr(WanBackbone, "condition_step", noting)
    monkeypatch.setattr(WanBackbone, "join_steps", noting_join)
    case = TinyCase(cache=cache, scales=(scale,))
    work = tiny_skyreels_denoising(case)
    video = serial_video(work)
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    # Finished frames are forwarded where the block before is recomputed alone.
    recomputed = not isinstance(cache, SameStepKV)
    assert embedded == [*work.sampler.timesteps, *([0.0] if recomputed else [])]
    tokens = tiny_skyreels_spec().tokens_per_frame(HEIGHT, WIDTH)
    # Two frames of the block before are one step cleaner than all the others.
    assert {tuple(levels) for levels, _ in joined} == (
        {(step + 1, step) for step in range(STEPS)} if recomputed else set()
    )
    assert all(counts[0] == 2 * tokens for _, counts in joined)
