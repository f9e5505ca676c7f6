"""HunyuanVideo 1.5: its contracts, its loader, and runs with two kinds of text in attention."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from torch import Tensor

from longtake.caches import (
    Chunk,
    FeatureCache,
    FeatureStore,
    NextBlockKV,
    NoCache,
    SameStepKV,
)
from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.hunyuan_video15 import HunyuanVideo15Backbone, HunyuanVideo15Family
from longtake.models.text import move_prompts
from longtake.schedulers import FullSequence
from longtake.task import FrameRange, Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase
from longtake.testing.tiny.hunyuan_video15 import (
    IMAGE_DIM,
    tiny_hunyuan15_backbone,
    tiny_hunyuan15_denoising,
    tiny_hunyuan15_folder,
    tiny_hunyuan15_prompts,
    tiny_hunyuan15_spec,
    tiny_hunyuan15_transformer,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ['red bird moves "sea"', "slow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan15_folder(tmp_path_factory.mktemp("hunyuan15"), shard_size="20KB")


@pytest.fixture(scope="module")
def encoded(folder: ModelFolder) -> PromptStates:
    return HunyuanVideo15Family().encode_text(folder, PROMPTS, PLACE)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def forward(transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
    """Run diffusers' own forward: with no image, whose tokens are zeros."""
    rows, dtype = len(latents), transformer.dtype
    no_image = torch.zeros_like(torch.cat((latents, latents[:, :1]), dim=1))
    out: Tensor = transformer(
        torch.cat((latents, no_image), dim=1),
        torch.full((rows,), timestep, dtype=dtype),
        prompts["states"],
        prompts["mask"],
        encoder_hidden_states_2=prompts["glyphs"],
        encoder_attention_mask_2=prompts["glyphs_mask"],
        image_embeds=torch.zeros(rows, 2, IMAGE_DIM, dtype=dtype),
        return_dict=False,
    )[0]
    return out


def load(
    folder: ModelFolder, layers: Collection[int], place: Placement = PLACE
) -> HunyuanVideo15Backbone:
    """Load it for as many text tokens as the made-up prompts have, not for 1256: it is faster."""
    return HunyuanVideo15Family().load_backbone(folder, tiny_hunyuan15_spec(), layers, place)


class TestHunyuanVideo15Backbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_hunyuan15_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_hunyuan15_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_hunyuan15_transformer(), latents, timestep, prompts)

    def test_both_kinds_of_text_are_padded(self) -> None:
        backbone = self.load()
        # 8 tokens of text, of which 6 and 5 are the prompt; 3 of glyphs, of which 2 and none are.
        assert backbone.text_padding(backbone.condition_text(self.prompts())) == (3, 6)

    def test_glyphs_matter(self) -> None:
        backbone, prompts = self.load(), self.prompts()
        changed = prompts | {"glyphs": prompts["glyphs"].flip(-1)}
        grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
        latents = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH)
        with_glyphs, other = (
            Run(backbone, grid, 500.0, states).predict(latents) for states in (prompts, changed)
        )
        assert not torch.allclose(with_glyphs[0], other[0], rtol=1e-2)
        assert torch.equal(with_glyphs[1], other[1]), "this prompt has none"


class TestHunyuanVideo15BackboneFromDisk(TestHunyuanVideo15Backbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), HunyuanVideo15Family)
    tiny, name = tiny_hunyuan15_spec(), f"{folder.path.name} (HunyuanVideo15Pipeline)"
    assert HunyuanVideo15Family().spec(folder) == replace(tiny, name=name, text_tokens=1256)


@pytest.mark.parametrize(
    ("guider", "settings", "message"),
    [
        (AdaptiveProjectedGuidance, {}, "is guided by AdaptiveProjectedGuidance; Classif"),
        (ClassifierFreeGuidance, {"guidance_rescale": 0.7}, "guidance_rescale to 0.7; .* be 0.0"),
        (ClassifierFreeGuidance, {"stop": 0.5}, "sets stop to 0.5; .* must be 1.0"),
    ],
    ids=["class", "rescale", "stop"],
)
def test_other_guidance_is_refused(
    guider: Any, settings: dict[str, float], message: str, tmp_path: Path
) -> None:
    folder = tiny_hunyuan15_folder(tmp_path / "other", guider=guider(**settings))
    with pytest.raises(ModelError, match=message):
        HunyuanVideo15Family().spec(folder)


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    held = load(folder, layers)._transformer.state_dict()
    whole = tiny_hunyuan15_transformer().state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "transformer_blocks"} == set(layers)
    embedders = {"x_embedder", "context_embedder", "context_embedder_2", "cond_type_embed"}
    first = embedders if 0 in layers else set()
    last = {"norm_out", "proj_out"} if LAYERS - 1 in layers else set()
    assert {p[0] for p in parts} == {"transformer_blocks", "time_embed"} | first | last


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    expected = HunyuanVideo15Transformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    place = Placement(CPU, torch.bfloat16)
    backbone = load(folder, range(LAYERS), place)
    latents = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(tiny_hunyuan15_prompts(1), place)
    whole = forward(expected, latents.bfloat16(), 999.0, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 999.0, prompts).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def pipeline(folder: ModelFolder, scale: float = 1.0) -> Any:
    pipeline = HunyuanVideo15Pipeline.from_pretrained(folder.path)
    pipeline.guider = pipeline.guider.new(guidance_scale=scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_the_pipeline_does(folder: ModelFolder) -> None:
    prompts = ['a "red" bird', "", *["blue sea"] * 7]
    found = HunyuanVideo15Family().encode_text(folder, prompts, PLACE)
    expected = pipeline(folder).encode_prompt(prompts, batch_size=len(prompts))
    for name, states in zip(("states", "mask", "glyphs", "glyphs_mask"), expected, strict=True):
        # Batches of another size.
        torch.testing.assert_close(found[name].float(), states, rtol=1e-5, atol=1e-6)
    assert found["mask"].dtype == found["glyphs_mask"].dtype == torch.bool
    # 5 words and quotes, 1 of the template; the bytes of 'Text "red". ' and </s>. Then 1 of " ",
    # which is what the pipeline makes of an empty prompt: nothing, and the template.
    text = load(folder, range(1)).condition_text(found)
    assert text.padding[:3] == (1256 - 6 - 13, 1256 - 1, 1256 - 3)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_pipeline(
    folder: ModelFolder, encoded: PromptStates, scale: float
) -> None:
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    expected = pipeline(folder, scale)(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 16,
        width=WIDTH * 16,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        latents=noise,
        output_type="latent",
    ).frames
    case, family = TinyCase(scheduler=FullSequence(), scales=(scale,)), HunyuanVideo15Family()
    work = replace(
        tiny_hunyuan15_denoising(case, prompts=encoded),
        backbone=family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
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

    monkeypatch.setattr(FeatureStore, "put", noting)
    video = serial_video(tiny_hunyuan15_denoising(TinyCase(cache=cache, scales=(scale,))))
    assert video.shape == (1, CHANNELS, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    context = 2 * tiny_hunyuan15_spec().tokens_per_frame(HEIGHT, WIDTH)
    # A frame of both contexts is kept once, apart from what the older block alone reads.
    parts = {NoCache: set(), NextBlockKV: {context}, SameStepKV: {context // 2, context}}
    assert set(kept) == parts[type(cache)]
