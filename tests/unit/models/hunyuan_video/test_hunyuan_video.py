"""HunyuanVideo: its contracts, its loader, and runs in which text is inside self-attention."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
from torch import Tensor

from longtake.caches import (
    Chunk,
    FeatureCache,
    FeatureStore,
    NextBlockKV,
    NoCache,
    SameStepKV,
)
from longtake.models import (
    AnyBackbone,
    DiffusersSampler,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    Rotary,
    family_of,
    load_sampler,
)
from longtake.models.hunyuan_video import (
    HunyuanVideoBackbone,
    HunyuanVideoFamily,
)
from longtake.models.layers.rotary import AxialRotary
from longtake.models.text import move_prompts
from longtake.schedulers import FullSequence
from longtake.task import FrameRange, Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video, video_of_windows
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_scheduler,
)
from longtake.testing.tiny.hunyuan_video import (
    DUAL,
    EMBEDDED_SCALE,
    tiny_hunyuan_backbone,
    tiny_hunyuan_denoising,
    tiny_hunyuan_folder,
    tiny_hunyuan_prompts,
    tiny_hunyuan_spec,
    tiny_hunyuan_transformer,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES, SCALE = 4, 3, EMBEDDED_SCALE
PROMPTS = ["red bird moves", "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan_folder(tmp_path_factory.mktemp("hunyuan"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(
    transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates, scale: float
) -> Tensor:
    """Run diffusers' own forward."""
    rows = len(latents)
    out: Tensor = transformer(
        latents,
        torch.full((rows,), timestep),
        prompts["states"],
        prompts["mask"],
        prompts["pooled"],
        torch.full((rows,), scale, dtype=transformer.dtype) * 1000.0,
        return_dict=False,
    )[0]
    return out


def load(folder: ModelFolder, layers: Collection[int]) -> HunyuanVideoBackbone:
    family = HunyuanVideoFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


class TestHunyuanVideoBackbone(BackboneContract):
    guidance = SCALE

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_hunyuan_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_hunyuan_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_hunyuan_transformer(), latents, timestep, prompts, self.guidance)

    def test_the_prompts_are_of_different_length(self) -> None:
        backbone = self.load()
        assert backbone.text_padding(backbone.condition_text(self.prompts())) == (2, 3)

    def test_the_guidance_scale_is_embedded(self) -> None:
        backbone = self.load()
        low, high = (backbone.condition_step(500.0, scale).embedding for scale in (1.0, SCALE))
        assert not torch.allclose(low, high, rtol=1e-2)


class TestHunyuanVideoBackboneFromDisk(TestHunyuanVideoBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return HunyuanVideoFamily().encode_text(self.folder, PROMPTS, PLACE)

    def test_the_prompts_are_of_different_length(self) -> None:
        # Of 256 tokens: 4 words of the template, the prompt, <|eot_id|> in 3 and </s>.
        backbone = self.load()
        assert backbone.text_padding(backbone.condition_text(self.prompts())) == (245, 247)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder, tmp_path: Path) -> None:
    assert isinstance(family_of(folder), HunyuanVideoFamily)
    tiny = tiny_hunyuan_spec()
    expected = replace(tiny, name=f"{folder.path.name} (HunyuanVideoPipeline)", text_tokens=256)
    assert HunyuanVideoFamily().spec(folder) == expected
    plain = tiny_hunyuan_folder(tmp_path / "plain", guidance_embeds=False)
    assert HunyuanVideoFamily().spec(plain).guidance == "branches"


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    held = load(folder, layers)._transformer.state_dict()
    whole = tiny_hunyuan_transformer().state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    lists = ("transformer_blocks", "single_transformer_blocks")
    parts = [key.split(".") for key in held]
    numbers = {int(p[1]) + DUAL * lists.index(p[0]) for p in parts if p[0] in lists}
    assert numbers == set(layers)
    first = {"x_embedder", "context_embedder"} if 0 in layers else set()
    last = {"norm_out", "proj_out"} if LAYERS - 1 in layers else set()
    assert {p[0] for p in parts} - set(lists) == {"time_text_embed"} | first | last


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    expected = HunyuanVideoTransformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    place = Placement(CPU, torch.bfloat16)
    spec = tiny_hunyuan_spec()  # with as many text tokens as the made-up prompts have
    backbone = HunyuanVideoFamily().load_backbone(folder, spec, range(LAYERS), place)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(tiny_hunyuan_prompts(1), place)
    whole = forward(expected, latents.bfloat16(), 900.0, prompts, SCALE)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 900.0, prompts, SCALE).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def pipeline(folder: ModelFolder) -> Any:
    pipeline = HunyuanVideoPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_the_pipeline_does(folder: ModelFolder) -> None:
    prompts = ["a red bird", "", *["blue sea"] * 8]
    found = HunyuanVideoFamily().encode_text(folder, prompts, PLACE)
    states, pooled, mask = pipeline(folder).encode_prompt(prompts)
    assert torch.equal(found["mask"], mask.bool())
    # Batches of another size.
    torch.testing.assert_close(found["states"], states, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["pooled"], pooled, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["pooled"][0], found["pooled"][1])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(folder: ModelFolder, scale: float) -> None:
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    expected = pipeline(folder)(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        true_cfg_scale=scale,
        guidance_scale=SCALE,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise,
        output_type="latent",
    ).frames
    states = HunyuanVideoFamily().encode_text(folder, PROMPTS, PLACE)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_hunyuan_denoising(case, prompts=states),
        backbone=load(folder, range(LAYERS)),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
    )
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


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
    table = AxialRotary.table

    def noting_origin(positions: AxialRotary, grid: Grid) -> Rotary:
        origins.add(grid.origin)
        return table(positions, grid)

    monkeypatch.setattr(FeatureStore, "put", noting)
    monkeypatch.setattr(AxialRotary, "table", noting_origin)
    case = TinyCase(cache=cache, scales=(scale,))
    video = serial_video(tiny_hunyuan_denoising(case))
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    context = 2 * tiny_hunyuan_spec().tokens_per_frame(HEIGHT, WIDTH)
    # A frame of both contexts is kept once, apart from what the older block alone reads.
    parts = {NoCache: set(), NextBlockKV: {context}, SameStepKV: {context // 2, context}}
    assert set(kept) == parts[type(cache)]
    blocks = case.scheduler.blocks(case.latent_frames)
    assert origins == {max(0, block.start - 2) for block in blocks}, "text moves with the cache"


def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window() -> None:
    """Which restarts positions in every window: text stands where the window begins."""
    case = TinyCase(cache=NoCache(), scales=(1.0,))
    prompts, model = tiny_hunyuan_prompts(1), tiny_hunyuan_transformer()
    sampler = DiffusersSampler(tiny_scheduler(case.sampler), case.steps)

    def predict(window: Tensor, timestep: float) -> Tensor:
        return forward(model, window, timestep, prompts, SCALE)

    found, expected = (
        serial_video(tiny_hunyuan_denoising(case)),
        video_of_windows(case, sampler, predict),
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
