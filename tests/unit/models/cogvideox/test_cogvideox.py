"""CogVideoX: its contracts, its loader, and runs of both kinds of positions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from longtake.caches import (
    Chunk,
    FeatureCache,
    FeatureStore,
    NextBlockKV,
    NoCache,
    SameStepKV,
)
from longtake.errors import ModelError
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import (
    AnyBackbone,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.cogvideox import CogVideoXBackbone, CogVideoXFamily
from longtake.models.text import join_prompts, move_prompts, split_prompts
from longtake.schedulers import FullSequence
from longtake.task import FrameRange, Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video, video_of_windows
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
)
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox_backbone,
    tiny_cogvideox_denoising,
    tiny_cogvideox_folder,
    tiny_cogvideox_spec,
    tiny_cogvideox_transformer,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES, SCALE = 4, 3, 6.0
PROMPTS = ["red bird moves", "slow"]

kinds = pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "waves"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, ModelFolder]:
    path = tmp_path_factory.mktemp("cogvideox")
    return {
        rotary: tiny_cogvideox_folder(path / str(rotary), rotary=rotary, shard_size="20KB")
        for rotary in (True, False)
    }


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(transformer: Any, latents: Tensor, timestep: float, states: Tensor) -> Tensor:
    """Run diffusers' own forward, with positions as the pipeline prepares them."""
    config, (rows, _, frames, height, width) = transformer.config, latents.shape
    rotary = None
    if config.use_rotary_positional_embeddings:
        plane = (height // config.patch_size, width // config.patch_size)
        trained = (config.sample_width // config.patch_size, config.sample_height // 2)
        crop = get_resize_crop_region_for_grid(plane, *trained)
        rotary = get_3d_rotary_pos_embed(config.attention_head_dim, crop, plane, frames)
    out: Tensor = transformer(
        latents.transpose(1, 2),
        states,
        torch.full((rows,), timestep),
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    return out.transpose(1, 2)


def load(folder: ModelFolder, layers: Collection[int] = range(LAYERS)) -> CogVideoXBackbone:
    family = CogVideoXFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


class TestCogVideoXBackbone(BackboneContract):
    rotary = True

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_cogvideox_backbone(range(LAYERS) if layers is None else layers, self.rotary)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        transformer = tiny_cogvideox_transformer(self.rotary)
        return forward(transformer, latents, timestep, prompts["states"])


class TestCogVideoXBackboneWithWaves(TestCogVideoXBackbone):
    rotary = False

    def test_any_frame_is_told_as_the_last_of_a_clip_is(self) -> None:
        """Far from the frames of a clip as well, and without making those before."""
        latents, at = self._latents(), 97
        found = self._run(self.load(), grid=self._grid(at)).embed(latents)
        patches = tiny_cogvideox_transformer(rotary=False).patch_embed
        clip = torch.cat([torch.zeros(1, 4, at, HEIGHT, WIDTH), latents], dim=2)
        states = self.prompts()["states"]
        whole = patches(states, clip.transpose(1, 2).expand(2, -1, -1, -1, -1))
        video = found[:, : self._tokens(FRAMES)]
        assert torch.equal(found[:, self._tokens(FRAMES) :], whole[:, : states.shape[1]])
        torch.testing.assert_close(video, whole[:, -self._tokens(FRAMES) :], rtol=0, atol=1e-6)


class TestCogVideoXBackboneFromDisk(TestCogVideoXBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folders: dict[bool, ModelFolder]) -> None:
        self.folder = folders[self.rotary]

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return CogVideoXFamily().encode_text(self.folder, PROMPTS, PLACE)


class TestCogVideoXBackboneWithWavesFromDisk(TestCogVideoXBackboneFromDisk):
    rotary = False


@pytest.mark.parametrize("size", [(4, 6), (12, 8), (8, 4), (2, 14)], ids=str)
def test_pictures_of_any_shape_stand_where_the_pipeline_puts_them(size: tuple[int, int]) -> None:
    latents = torch.randn(1, 4, FRAMES, *size, generator=torch.Generator().manual_seed(0))
    prompts = tiny_prompts(1)
    expected = forward(tiny_cogvideox_transformer(), latents, 500.0, prompts["states"])
    grid = Grid.of(FrameRange(0, FRAMES), height=size[0], width=size[1])
    found = Run(tiny_cogvideox_backbone(), grid, 500.0, prompts).predict(latents)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_spec_is_read_from_the_configuration(folders: dict[bool, ModelFolder]) -> None:
    for folder in folders.values():
        assert isinstance(family_of(folder), CogVideoXFamily)
        name = f"{folder.path.name} (CogVideoXPipeline)"
        assert CogVideoXFamily().spec(folder) == replace(tiny_cogvideox_spec(), name=name)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("in_channels", 8, r"CogVideoXPipeline whose transformer has 4 input.*needs 0"),
        ("patch_size_t", 4, r"puts 4 latent frames into one token .* of one .* and of 2"),
    ],
)
def test_folders_that_cannot_be_run_are_refused(
    folders: dict[bool, ModelFolder], tmp_path: Path, key: str, value: object, words: str
) -> None:
    config = folders[True].config("transformer") | {key: value}
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    folder = ModelFolder(tmp_path, folders[True].index)
    with pytest.raises(ModelError, match=words):
        CogVideoXFamily().spec(folder)


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
@kinds
def test_only_what_a_rank_needs_is_held(
    folders: dict[bool, ModelFolder], layers: range, rotary: bool
) -> None:
    folder = folders[rotary]
    assert len(set(folder.weight_files("transformer").values())) > 2
    held = load(folder, layers)._transformer.state_dict()
    whole = tiny_cogvideox_transformer(rotary).state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "transformer_blocks"} == set(layers)
    others = {".".join(p[:2]) for p in parts if p[0] in ("patch_embed", "norm_final")}
    assert others == {"patch_embed.text_proj"}.union(
        {"patch_embed.proj"} if 0 in layers else (),
        {"norm_final.weight", "norm_final.bias"} if LAYERS - 1 in layers else (),
    )
    assert ("proj_out.weight" in held) == ("norm_out.linear.weight" in held) == (3 in layers)


@kinds
def test_bf16_is_rounded_as_diffusers_does(folders: dict[bool, ModelFolder], rotary: bool) -> None:
    expected = CogVideoXTransformer3DModel.from_pretrained(
        folders[rotary].path / "transformer", torch_dtype=torch.bfloat16
    )
    family, place = CogVideoXFamily(), Placement(CPU, torch.bfloat16)
    spec = family.spec(folders[rotary])
    backbone = family.load_backbone(folders[rotary], spec, range(LAYERS), place)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    prompts = move_prompts(tiny_prompts(1), place)
    whole = forward(expected, latents.bfloat16(), 900.0, prompts["states"])
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 900.0, prompts).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.03 * whole.abs().max().item())


def pipeline(folder: ModelFolder) -> Any:
    pipeline = CogVideoXPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_the_pipeline_does(folders: dict[bool, ModelFolder]) -> None:
    prompts = ["a red bird", "", *["blue sea"] * 8]
    found = CogVideoXFamily().encode_text(folders[True], prompts, PLACE)["states"]
    tokens = tiny_cogvideox_spec().text_tokens
    states, _ = pipeline(folders[True]).encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=tokens
    )
    # Batches of another size.
    torch.testing.assert_close(found, states, rtol=1e-5, atol=1e-6)
    assert found.shape[1] == tokens
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("scale", [1.0, SCALE])
@kinds
def test_a_full_sequence_is_the_pipeline(
    folders: dict[bool, ModelFolder], rotary: bool, scale: float
) -> None:
    folder = folders[rotary]
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    states = CogVideoXFamily().encode_text(folder, PROMPTS, PLACE)
    expected = pipeline(folder)(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        guidance_scale=scale,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise.transpose(1, 2),
        max_sequence_length=tiny_cogvideox_spec().text_tokens,
        output_type="latent",
    ).frames.transpose(1, 2)
    backbone, rows = load(folder), split_prompts(states)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_denoising(case),
        backbone=backbone,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        guidance=ClassifierFreeGuidance(GuidanceSettings(scales=(scale,))),
        sampler=load_sampler(folder, None, None, STEPS),
        text=lambda _, branches: backbone.condition_text(join_prompts([rows[b] for b in branches])),
    )
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@kinds
def test_a_queue_keeps_video_tokens_only(
    cache: FeatureCache, rotary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    put = FeatureStore.put

    def noting(store: FeatureStore, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        kept.append(k.shape[1])
        put(store, chunk, layer, k, v)

    monkeypatch.setattr(FeatureStore, "put", noting)
    case = TinyCase(cache=cache)
    video = serial_video(tiny_cogvideox_denoising(case, rotary=rotary))
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    context = 2 * tiny_cogvideox_spec().tokens_per_frame(HEIGHT, WIDTH)
    # A frame of both contexts is kept once, apart from what the older block alone reads.
    parts = {NoCache: set(), NextBlockKV: {context}, SameStepKV: {context // 2, context}}
    assert set(kept) == parts[type(cache)]


def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window() -> None:
    """Which restarts positions in every window: text stands where the window begins."""
    case = TinyCase(cache=NoCache(), scales=(1.0,))
    states, model = tiny_prompts(1)["states"], tiny_cogvideox_transformer()
    sampler = tiny_cogvideox_denoising(case).sampler

    def predict(window: Tensor, timestep: float) -> Tensor:
        return forward(model, window, timestep, states)

    found, expected = (
        serial_video(tiny_cogvideox_denoising(case)),
        video_of_windows(case, sampler, predict),
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5


@kinds
def test_operations_can_be_counted_without_weights(
    folders: dict[bool, ModelFolder], rotary: bool
) -> None:
    family, place = CogVideoXFamily(), Placement(torch.device("meta"), torch.float32)
    spec = family.spec(folders[rotary])
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    states = torch.empty(2, TOKENS, TEXT_DIM, device=place.device)
    latents = torch.empty(1, CHANNELS, FRAMES, HEIGHT, WIDTH, device=place.device)
    with FlopCounterMode(display=False) as counter:
        backbone = family.load_backbone(folders[rotary], spec, range(LAYERS), place)
        found = Run(backbone, grid, 900.0, {"states": states}).predict(latents)
    assert found.shape == (2, CHANNELS, FRAMES, HEIGHT, WIDTH)
    # Four projections and a feed-forward of four times the width, both ways, for all tokens.
    tokens = FRAMES * spec.tokens_per_frame(HEIGHT, WIDTH) + TOKENS
    assert counter.get_total_flops() > 2 * 12 * spec.model_dim**2 * LAYERS * 2 * tokens
