"""Mochi: its contracts, its loader, and runs with text of another width in self-attention."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import MochiPipeline, MochiTransformer3DModel
from diffusers.models.transformers.transformer_mochi import MochiRoPE
from torch import Tensor

from longtake.caches import (
    Chunk,
    FeatureCache,
    FeatureStore,
    NextBlockKV,
    NoCache,
    SameStepKV,
)
from longtake.errors import ConfigurationError
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import (
    AnyBackbone,
    DiffusersSampler,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    Rotary,
    SamplerSettings,
    family_of,
    load_sampler,
)
from longtake.models.mochi import MochiBackbone, MochiFamily, MochiPositions
from longtake.models.samplers.scheduler_checks import flow_error
from longtake.models.text import move_prompts
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import SingleDevice
from longtake.task import FrameRange, Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video, video_of_windows
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_masked_prompts,
)
from longtake.testing.tiny.mochi import (
    TEXT_WIDTH,
    tiny_mochi_backbone,
    tiny_mochi_denoising,
    tiny_mochi_folder,
    tiny_mochi_scheduler,
    tiny_mochi_spec,
    tiny_mochi_transformer,
)
from longtake.testing.window import Run

# diffusers runs its own rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ["red bird moves", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_mochi_folder(tmp_path_factory.mktemp("mochi"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
    """Run diffusers' own forward."""
    out: Tensor = transformer(
        latents,
        prompts["states"],
        torch.full((len(latents),), timestep),
        prompts["mask"],
        return_dict=False,
    )[0]
    return out


def load(folder: ModelFolder, layers: Collection[int]) -> MochiBackbone:
    family = MochiFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


class TestMochiBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_mochi_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_masked_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_mochi_transformer(), latents, timestep, prompts)

    def test_the_prompts_are_of_different_length(self) -> None:
        backbone = self.load()
        assert backbone.text_padding(backbone.condition_text(self.prompts())) == (2, 3)

    def test_text_is_narrower_and_travels_with_zeros(self) -> None:
        run, backbone = self._run(self.load()), self.load()
        hidden = run.layers(run.embed(self._latents()), range(backbone.spec.layers))
        text = hidden[:, -backbone.spec.text_tokens :]
        assert text[..., :TEXT_WIDTH].abs().min() > 0
        assert text[..., TEXT_WIDTH:].eq(0).all()


class TestMochiBackboneFromDisk(TestMochiBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return MochiFamily().encode_text(self.folder, PROMPTS, PLACE)

    def test_the_prompts_are_of_different_length(self) -> None:
        backbone = self.load()
        assert backbone.text_padding(backbone.condition_text(self.prompts())) == (252, 254)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), MochiFamily)
    name = f"{folder.path.name} (MochiPipeline)"
    assert MochiFamily().spec(folder) == replace(tiny_mochi_spec(), name=name, text_tokens=256)


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    held = load(folder, layers)._transformer.state_dict()
    whole = tiny_mochi_transformer().state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "transformer_blocks"} == set(layers)
    first = {"patch_embed"} if 0 in layers else set()
    last = {"norm_out", "proj_out"} if LAYERS - 1 in layers else set()
    everywhere = {"transformer_blocks", "time_embed", "pos_frequencies"}
    assert {p[0] for p in parts} == everywhere | first | last


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    expected = MochiTransformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    place = Placement(CPU, torch.bfloat16)
    spec = tiny_mochi_spec()  # with as many text tokens as the made-up prompts have
    backbone = MochiFamily().load_backbone(folder, spec, range(LAYERS), place)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(tiny_masked_prompts(1), place)
    whole = forward(expected, latents.bfloat16(), 900.0, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 900.0, prompts).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def test_rotations_are_diffusers_own_at_every_frame() -> None:
    """At any frame of the video, of any picture; text stands in the middle of the origin."""
    frequencies = 0.1 * torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1))
    positions = MochiPositions(frequencies, patch=2, text_tokens=1)
    grid = Grid.of(FrameRange(40, 43), height=10, width=14, origin=38)
    found = positions.rotation(positions.table(grid))
    # What diffusers computes in fp32, for all frames from the video's first one on.
    video = [part[40 * 35 :] for part in MochiRoPE()(frequencies, 43, 5, 7, dtype=torch.float32)]
    still = [trig(38 * frequencies[0])[None] for trig in (torch.cos, torch.sin)]
    for part, expected, text in zip(found, video, still, strict=True):
        torch.testing.assert_close(part[0], torch.cat((expected, text)), rtol=0, atol=1e-5)


def pipeline(folder: ModelFolder) -> Any:
    pipeline = MochiPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("zeros", [True, False])
def test_prompts_are_encoded_as_the_pipeline_does(tmp_path: Path, zeros: bool) -> None:
    """Each on its own: an empty prompt, which may have no tokens, does not empty the others."""
    folder = tiny_mochi_folder(tmp_path, zeros=zeros)
    prompts = ["a red bird", "", *["blue sea"] * 8]
    found = MochiFamily().encode_text(folder, prompts, PLACE)
    for row, prompt in enumerate(prompts[:3]):
        states, mask, _, _ = pipeline(folder).encode_prompt(prompt)
        assert torch.equal(found["mask"][row], mask[0])
        assert torch.equal(found["states"][row], states[0])
    assert found["mask"].sum(dim=1)[:3].tolist() == [4, 0 if zeros else 1, 3]
    assert len(found["mask"]) == len(prompts)


@pytest.mark.parametrize("negative", ["slow", ""])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float, negative: str) -> None:
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    expected = pipeline(folder)(
        prompt=PROMPTS[0],
        negative_prompt=negative,
        guidance_scale=scale,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 6 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise,
        output_type="latent",
    ).frames
    states = MochiFamily().encode_text(folder, [PROMPTS[0], negative], PLACE)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_mochi_denoising(case, prompts=states),
        backbone=load(folder, range(LAYERS)),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
    )
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


def test_time_counts_up_from_the_noise(folder: ModelFolder) -> None:
    """The levels of the pipeline, half of the steps for a fortieth of the noise."""
    sampler = load_sampler(folder, None, None, 8)
    settings = SamplerSettings(steps=8, config=folder.config("scheduler"))
    assert flow_error(sampler, settings) < 1e-6
    assert sampler.timesteps[:5] == pytest.approx([0, 6.25, 12.5, 18.75, 25], abs=1e-3)
    assert sampler.timesteps[-1] < 1000
    assert load_sampler(folder, None, None, 1).timesteps == (0.0,)
    with pytest.raises(ConfigurationError, match="does not solve flow models such as this one"):
        load_sampler(folder, "UniPCMultistepScheduler", None, 8)


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_queue_keeps_video_tokens_only(
    cache: FeatureCache, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    put = FeatureStore.put

    def noting(store: FeatureStore, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        kept.append(k.shape[1])
        put(store, chunk, layer, k, v)

    origins: set[int] = set()
    table = MochiPositions.table

    def noting_origin(positions: MochiPositions, grid: Grid) -> Rotary:
        origins.add(grid.origin)
        return table(positions, grid)

    monkeypatch.setattr(FeatureStore, "put", noting)
    monkeypatch.setattr(MochiPositions, "table", noting_origin)
    case = TinyCase(cache=cache, scales=(scale,))
    video = serial_video(tiny_mochi_denoising(case))
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    context = 2 * tiny_mochi_spec().tokens_per_frame(HEIGHT, WIDTH)
    # A frame of both contexts is kept once, apart from what the older block alone reads.
    parts = {NoCache: set(), NextBlockKV: {context}, SameStepKV: {context // 2, context}}
    assert set(kept) == parts[type(cache)]
    blocks = case.scheduler.blocks(case.latent_frames)
    assert origins == {max(0, block.start - 2) for block in blocks}, "text moves with the cache"


def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window() -> None:
    """Which restarts positions in every window: text stands where the window begins."""
    case = TinyCase(cache=NoCache(), scales=(1.0,))
    prompts, model = tiny_masked_prompts(1), tiny_mochi_transformer()
    sampler = DiffusersSampler(tiny_mochi_scheduler(), case.steps, MochiFamily().sigmas(case.steps))

    def predict(window: Tensor, timestep: float) -> Tensor:
        return forward(model, window, timestep, prompts)

    found, expected = (
        serial_video(tiny_mochi_denoising(case)),
        video_of_windows(case, sampler, predict),
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5


def test_the_engine_makes_as_many_frames_as_asked_for(folder: ModelFolder) -> None:
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="red"),), num_frames=37, height=32, width=48)
    events = Engine(generation_config, SingleDevice()).generate(request)
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    video = torch.cat(frames)
    assert video.shape == (37, 32, 48, 3)
    assert video.float().std() > 1
