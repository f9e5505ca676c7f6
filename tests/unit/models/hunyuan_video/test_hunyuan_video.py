"""HunyuanVideo: its contracts, its loader, and runs in which text is inside self-attention."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from longtake.caches import (
    NoCache,
)
from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_sampler,
)
from longtake.models.hunyuan_video import (
    HunyuanVideoBackbone,
    HunyuanVideoFamily,
)
from longtake.schedulers import FullSequence
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
)
from longtake.testing.tiny.hunyuan_video import (
    EMBEDDED_SCALE,
    tiny_hunyuan_backbone,
    tiny_hunyuan_denoising,
    tiny_hunyuan_folder,
    tiny_hunyuan_prompts,
    tiny_hunyuan_spec,
    tiny_hunyuan_transformer,
)

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
    images = tiny_hunyuan_folder(tmp_path / "images", image_condition_type="token_replace")
    with pytest.raises(ModelError, match=r"an image condition \(token_replace\)"):
        HunyuanVideoFamily().spec(images)


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
        tasks=FullSequence().tasks(FRAMES, STEPS),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
    )
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"
