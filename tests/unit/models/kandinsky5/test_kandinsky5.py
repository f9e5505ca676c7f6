"""Kandinsky 5: its contract, its loader, its positions, and what is cut off a prompt."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import Kandinsky5Transformer3DModel
from diffusers.models.transformers import transformer_kandinsky
from torch import Tensor

from longtake.errors import ModelError
from longtake.models import AnyBackbone, Grid, ModelFolder, Placement, PromptStates, family_of
from longtake.models.kandinsky5 import Kandinsky5Family, Kandinsky5Rotary
from longtake.task import FrameRange
from longtake.testing.contracts import BackboneContract
from longtake.testing.tiny.base import LAYERS
from longtake.testing.tiny.kandinsky5 import (
    tiny_kandinsky5_backbone,
    tiny_kandinsky5_prompts,
    tiny_kandinsky5_spec,
    tiny_kandinsky5_transformer,
)
from longtake.testing.tiny.published import published_folder

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return published_folder("Kandinsky-5.0-T2V-Lite", tmp_path_factory.mktemp("kandinsky") / "k")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without diffusers' rounding of queries and keys to bfloat16, whatever the weights are."""
    exact = SimpleNamespace(**vars(torch) | {"bfloat16": torch.float32})
    monkeypatch.setattr(transformer_kandinsky, "torch", exact)


def forward(
    transformer: Kandinsky5Transformer3DModel,
    latents: Tensor,
    timestep: float,
    prompts: PromptStates,
) -> Tensor:
    """Run diffusers' own forward, of each prompt by itself: it knows no padding."""
    rows = []
    last = latents.movedim(1, -1)
    seen = torch.cat([last, torch.zeros_like(last), torch.zeros_like(last[..., :1])], dim=-1)
    frames, height, width = latents.shape[2:]
    places = [torch.arange(size) for size in (frames, height // 2, width // 2)]
    for row, mask in enumerate(prompts["mask"]):
        count = int(mask.sum())
        out = transformer(
            hidden_states=seen[row : row + 1],
            encoder_hidden_states=prompts["states"][row : row + 1, :count],
            timestep=torch.tensor([timestep]),
            pooled_projections=prompts["pooled"][row : row + 1],
            visual_rope_pos=places,
            text_rope_pos=torch.arange(count),
            scale_factor=(1.0, 3.16, 3.16),
        ).sample
        rows.append(out.movedim(-1, 1))
    return torch.cat(rows)


class TestKandinsky5Backbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_kandinsky5_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_kandinsky5_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_kandinsky5_transformer(), latents, timestep, prompts)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    family = family_of(folder)
    assert isinstance(family, Kandinsky5Family)
    spec = family.spec(folder)
    assert (spec.channels, spec.heads, spec.head_dim, spec.layers) == (16, 2, 16, 3)
    assert (spec.compression.temporal, spec.compression.spatial) == (4, 8)
    assert family.defaults(folder).negative_prompt.startswith("Static, 2D cartoon")


@pytest.mark.parametrize("layers", [range(1), range(1, 2), range(2, 3)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    family = Kandinsky5Family()
    backbone = family.load_backbone(folder, family.spec(folder), layers, PLACE)
    held = backbone._transformer.state_dict()
    whole = Kandinsky5Transformer3DModel.from_pretrained(folder.path / "transformer").state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "visual_transformer_blocks"} == set(layers)
    ends = {"visual_embeddings", "out_layer"} & {p[0] for p in parts}
    wanted = {"visual_embeddings"} if 0 in layers else set()
    assert ends == wanted | ({"out_layer"} if 2 in layers else set())


def test_sparse_attention_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = folder.config("transformer") | {"attention_type": "nabla"}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"sparse attention \(nabla\).*Lite-sft-5s"):
        Kandinsky5Family().spec(ModelFolder(tmp_path, folder.index))


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(512, 768, 2.0), (480, 854 // 16 * 16, 2.0), (768, 1280, 3.16)]
)
def test_larger_pictures_stand_closer_together(height: int, width: int, scale: float) -> None:
    """As the pipeline scales: both sides from 480 to 854 pixels are small."""
    rotary = Kandinsky5Rotary((4, 4, 4), tiny_kandinsky5_spec(), CPU)
    cos, _ = rotary.table(Grid.of(FrameRange(0, 1), height // 8, width // 8))
    second_row = cos[0, width // 16, 0]
    assert second_row[2].item() == pytest.approx(torch.tensor(1 / scale).cos().item(), abs=1e-6)


def test_what_its_pipeline_cuts_off_a_prompt_is_said(folder: ModelFolder) -> None:
    said: list[str] = []
    told = replace(folder, report=said.append)
    Kandinsky5Family().encode_text(told, ["a fox", "a fox moves over the sea " * 60], PLACE)
    assert len([one for one in said if "reads 512 tokens of a prompt; this has no" in one]) == 1
