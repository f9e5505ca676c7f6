"""Kandinsky 5: its contract, its loader, its positions, and what is cut off a prompt."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from diffusers.models.transformers import transformer_kandinsky
from tests.unit.models.kandinsky5.exact import exact_kandinsky5
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from longtake.errors import ConfigurationError, ModelError
from longtake.framework import PromptAt, Request
from longtake.framework.engine.preflight import check_request
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    ConditioningFrames,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    VideoDecoder,
    family_of,
)
from longtake.models.kandinsky5 import Kandinsky5Family, Kandinsky5Rotary
from longtake.models.kandinsky5.decoder import EvenedDecoder, evened
from longtake.models.kandinsky5.nabla import Nabla, attend_squares, block_mask
from longtake.plan.check.layouts import check_layout
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.meshes import Asked, meshes
from longtake.schedulers import FullSequence
from longtake.task import FrameRange
from longtake.testing.contracts import BackboneContract
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase
from longtake.testing.tiny.kandinsky5 import (
    NABLA,
    NABLA_HEIGHT,
    NABLA_WIDTH,
    tiny_kandinsky5_backbone,
    tiny_kandinsky5_prompts,
    tiny_kandinsky5_spec,
    tiny_kandinsky5_transformer,
)
from longtake.testing.tiny.published import published_folder
from longtake.testing.window import Run

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
    exact_kandinsky5(monkeypatch)


def forward(
    transformer: Kandinsky5Transformer3DModel,
    latents: Tensor,
    timestep: float,
    prompts: PromptStates,
    given: int = 0,
) -> Tensor:
    """Run diffusers' own forward, of each prompt by itself: it knows no padding.

    Args:
        transformer: Its own.
        latents: ``(B, C, F, H, W)``.
        timestep: Of all of them.
        prompts: One row each.
        given: How many of the first frames are marked as given.
    """
    rows = []
    last = latents.movedim(1, -1)
    marks = torch.zeros_like(last[..., :1])
    marks[:, :given] = 1.0
    seen = torch.cat([last, torch.zeros_like(last), marks], dim=-1)
    frames, height, width = latents.shape[2:]
    places = [torch.arange(size) for size in (frames, height // 2, width // 2)]
    pipeline = SimpleNamespace(transformer=transformer)
    pipeline.fast_sta_nabla = Kandinsky5T2VPipeline.fast_sta_nabla
    sparse = Kandinsky5T2VPipeline.get_sparse_params(pipeline, seen, CPU)
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
            sparse_params=sparse,
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


class TestNablaBackbone(BackboneContract):
    height, width = NABLA_HEIGHT, NABLA_WIDTH

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_kandinsky5_backbone(range(LAYERS) if layers is None else layers, nabla=True)

    def prompts(self) -> PromptStates:
        return tiny_kandinsky5_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_kandinsky5_transformer(**NABLA), latents, timestep, prompts)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_given_frames_are_marked(given: int) -> None:
    """In the input channel that the model has for it; all frames are at one noise level."""
    start = ConditioningFrames(latents=torch.zeros(1, CHANNELS, given, HEIGHT, WIDTH))
    grid = Grid.of(FrameRange(0, 3), HEIGHT, WIDTH)
    prompts = tiny_kandinsky5_prompts(1)
    latents = torch.randn(1, CHANNELS, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    run = Run(tiny_kandinsky5_backbone(image=True), grid, 500.0, prompts, start=start)
    expected = forward(tiny_kandinsky5_transformer(), latents, 500.0, prompts, given)
    difference = (run.predict(latents) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5


def test_nabla_sees_what_diffusers_does() -> None:
    """Which squares are near, and which are chosen; of each head its own, and not all of them."""
    nabla = Nabla(share=0.5, reach=(3, 3, 1))
    near = nabla.near((0, 1, 2, 3), (0, 1, 2, 3), 3, 2)
    assert torch.equal(near, Kandinsky5T2VPipeline.fast_sta_nabla(4, 3, 2, 3, 3, 1, CPU))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 24 * 64, 2, 12, generator=generator) for _ in range(2))
    q, k = (
        x + 2 * torch.randn(1, 24, 2, 12, generator=generator).repeat_interleave(64, 1)
        for x in (q, k)
    )
    seen = nabla.seen(q, k, near)
    theirs = transformer_kandinsky.nablaT_v2(q, k, near[None, None], thr=0.5).to_dense().bool()
    assert torch.equal(seen, theirs)
    assert 0.2 < float(seen.float().mean()) < 0.8
    assert not torch.equal(seen[:, 0], seen[:, 1])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_what_flex_attention_is_told_is_what_is_seen() -> None:
    """The squares that compiled code skips by, and what is asked where nothing is compiled."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 64 * 4, 2, 16, generator=generator) for _ in range(3))
    seen = torch.rand(1, 2, 4, 4, generator=generator) < 0.4
    seen[..., 0] = True
    mask = block_mask(seen)
    assert torch.equal(mask.to_dense().bool(), seen)
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    found = flex_attention(heads_first[0], heads_first[1], heads_first[2], block_mask=mask)
    assert isinstance(found, Tensor)
    assert torch.allclose(found.transpose(1, 2), attend_squares(q, k, v, seen), atol=1e-5)


def test_a_ring_is_refused_where_keys_are_chosen() -> None:
    workload = replace(TinyCase(scales=(1.0,)).workload, spec=tiny_kandinsky5_spec(nabla=True))
    with pytest.raises(ConfigurationError, match=r"possible:.*ulysses 2.*\(nabla\), so ring is 1"):
        meshes(2, workload, Asked(ring=2))
    assert {mesh.ring for mesh in meshes(4, workload, Asked(ring=None, ulysses=None))} == {1}
    layout = Layout(mesh=Mesh(ring=2), stages=(range(LAYERS),), batches=(range(1),))
    with pytest.raises(ConfigurationError, match=r"a ring of 2.*use ulysses"):
        check_layout("Mine", layout, workload, 2)


def test_pictures_are_whole_squares() -> None:
    request = Request(prompts=(PromptAt(text="red"),), num_frames=5, height=192, width=256)
    with pytest.raises(ConfigurationError, match=r"height is 192.*128.*256"):
        check_request(request, tiny_kandinsky5_spec(nabla=True), FullSequence())


def test_kept_keys_are_near_by_their_positions() -> None:
    """Frames 4 and 5 of a video see squares of frame 3, which is kept, and not of frame 0."""
    nabla = Nabla(share=0.5, reach=(3, 1, 1))
    near = nabla.near((4, 5), (0, 3, 4, 5), 1, 2)
    frames = near.reshape(2, 2, 4, 2).any(3).any(1)
    assert frames.tolist() == [[False, True, True, True], [False, False, True, True]]


def test_a_square_of_queries_attends_to_what_it_sees() -> None:
    """As attention of all queries with a mask of single tokens, in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 64 * count, 2, 6, generator=generator, dtype=torch.float64)
        for count in (2, 3, 3)
    )
    seen = torch.rand(2, 2, 2, 3, generator=generator) < 0.5
    seen[..., 0] = True
    found = attend_squares(q, k, v, seen)
    mask = seen.repeat_interleave(64, 2).repeat_interleave(64, 3)
    weights = torch.einsum("bqnd,bknd->bnqk", q, k) / 6**0.5
    weights = weights.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = torch.einsum("bnqk,bknd->bqnd", weights, v)
    assert (found - expected).abs().max() <= 1e-12


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


def test_sparse_attention_without_its_numbers_is_refused(
    folder: ModelFolder, tmp_path: Path
) -> None:
    (tmp_path / "transformer").mkdir()
    config = folder.config("transformer") | {"attention_type": "nabla", "attention_P": 0.9}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"attention_P 0.9, attention_wT None.*all four"):
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


@pytest.mark.parametrize("frames", [5, 9, 12])
@pytest.mark.parametrize("block", [1, 4, 12])
def test_first_frames_are_evened_out_as_in_the_pipeline(frames: int, block: int) -> None:
    """Wherever blocks are cut, before anything is decoded."""
    generator = torch.Generator().manual_seed(frames)
    latents = torch.randn(1, CHANNELS, frames, 2, 3, generator=generator)
    latents[:, :, :4] = latents[:, :, :4] * 3 + 1
    decoder = EvenedDecoder(_Shown())
    state = decoder.start_of(frames)
    found: list[Tensor] = []
    for first in range(0, frames, block):
        found += decoder.decode(state, latents[:, :, first : first + block])
    found += decoder.finish(state)
    pipeline = Kandinsky5I2VPipeline.__new__(Kandinsky5I2VPipeline)
    expected = pipeline.normalize_first_frame(latents.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(torch.cat(found, dim=2), expected, atol=1e-5)
    assert not torch.allclose(expected, latents, atol=0.1)


@pytest.mark.parametrize("frames", [1, 4])
def test_short_videos_are_not_evened_out(frames: int) -> None:
    decoder, latents = EvenedDecoder(_Shown()), torch.randn(1, CHANNELS, frames, 2, 3)
    state = decoder.start()
    assert list(decoder.decode(state, latents)) == []
    assert torch.equal(torch.cat(list(decoder.finish(state)), dim=2), latents)


def test_tiles_see_evened_pictures() -> None:
    """Frames are evened out as wholes, then decoded in tiles."""
    decoder = EvenedDecoder(_Shown()).in_tiles(_Halved)
    latents = torch.randn(1, CHANNELS, 9, 2, 3)
    found = torch.cat(list(decoder.decode(decoder.start(), latents)), dim=2)
    assert torch.allclose(found, evened(latents) / 2)


class _Shown(VideoDecoder[None]):
    """Shows latents as they are."""

    def start(self) -> None:
        return None

    def decode(self, state: None, latents: Tensor) -> Iterator[Tensor]:
        yield latents


class _Halved(VideoDecoder[None]):
    """Halves what another decoder makes."""

    def __init__(self, decoder: AnyDecoder) -> None:
        self._decoder = decoder

    def start(self) -> None:
        return None

    def decode(self, state: None, latents: Tensor) -> Iterator[Tensor]:
        yield from (frame / 2 for frame in self._decoder.decode(None, latents))
