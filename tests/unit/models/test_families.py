"""Families of models: what is asked of each of them in the same words, on tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from tests.unit.models.hunyuan_video import test_hunyuan_video as hunyuan_video
from tests.unit.models.hunyuan_video15 import test_hunyuan_video15 as hunyuan_video15
from tests.unit.models.ltx import test_ltx as ltx
from tests.unit.models.mochi import test_mochi as mochi
from torch import Tensor

from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import (
    BackboneSpec,
    Grid,
    ModelFamily,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
)
from longtake.models.hunyuan_video import HunyuanVideoFamily
from longtake.models.hunyuan_video15 import HunyuanVideo15Family
from longtake.models.ltx import LTXConditionFamily, LTXFamily
from longtake.models.mochi import MochiFamily
from longtake.models.text import move_prompts
from longtake.schedulers import FifoQueue
from longtake.strategies import SingleDevice
from longtake.task import FrameRange
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    LAYERS,
    WIDTH,
    tiny_masked_prompts,
)
from longtake.testing.tiny.hunyuan_video import (
    EMBEDDED_SCALE,
    tiny_hunyuan_folder,
    tiny_hunyuan_prompts,
    tiny_hunyuan_spec,
    tiny_hunyuan_transformer,
)
from longtake.testing.tiny.hunyuan_video15 import (
    tiny_hunyuan15_folder,
    tiny_hunyuan15_prompts,
    tiny_hunyuan15_spec,
    tiny_hunyuan15_transformer,
)
from longtake.testing.tiny.ltx import (
    tiny_ltx_condition_folder,
    tiny_ltx_folder,
    tiny_ltx_spec,
    tiny_ltx_transformer,
)
from longtake.testing.tiny.mochi import (
    tiny_mochi_folder,
    tiny_mochi_spec,
    tiny_mochi_transformer,
)
from longtake.testing.window import Run

# diffusers runs Mochi's rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

CPU = torch.device("cpu")
FRAMES = 3
Forward = Callable[[Any, Tensor, float, PromptStates], Tensor]
"""diffusers' own forward."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A family with what its loader is asked for.

    Args:
        family: The family.
        make: Makes its tiny folder, in shards.
        whole: Makes the transformer that is in it.
        spec: With as many text tokens as the made-up prompts have.
        prompts: Makes so many rows of them.
        forward: diffusers' own.
        first: Parts of the transformer that only the first layer's rank holds.
        last: Those that only the last layer's rank holds.
        everywhere: Those that every rank holds beside its layers.
        lists: Lists of layers.
        timestep: One of the model's.
        guidance: Scale that is embedded.
        frames: Video frames of a short queue.
        size: Height and width of its pictures; ``None``: the engine's own tests run it.
    """

    family: type[ModelFamily]
    make: Callable[..., ModelFolder]
    whole: Callable[[], Any]
    spec: Callable[[], BackboneSpec]
    prompts: Callable[[int], PromptStates]
    forward: Forward
    first: set[str]
    last: set[str]
    everywhere: set[str]
    lists: tuple[str, ...] = ("transformer_blocks",)
    timestep: float = 900.0
    guidance: float = 1.0
    frames: int = 37
    size: tuple[int, int] | None = None


LOADED = {
    "hunyuan": Loaded(
        family=HunyuanVideoFamily,
        make=tiny_hunyuan_folder,
        whole=tiny_hunyuan_transformer,
        spec=tiny_hunyuan_spec,
        prompts=tiny_hunyuan_prompts,
        forward=partial(hunyuan_video.forward, scale=EMBEDDED_SCALE),
        first={"x_embedder", "context_embedder"},
        last={"norm_out", "proj_out"},
        everywhere={"time_text_embed"},
        lists=("transformer_blocks", "single_transformer_blocks"),
        guidance=EMBEDDED_SCALE,
    ),
    "hunyuan 1.5": Loaded(
        family=HunyuanVideo15Family,
        make=tiny_hunyuan15_folder,
        whole=tiny_hunyuan15_transformer,
        spec=tiny_hunyuan15_spec,
        prompts=tiny_hunyuan15_prompts,
        forward=hunyuan_video15.forward,
        first={"x_embedder", "context_embedder", "context_embedder_2", "cond_type_embed"},
        last={"norm_out", "proj_out"},
        everywhere={"time_embed"},
        timestep=999.0,
    ),
    "ltx": Loaded(
        family=LTXFamily,
        make=tiny_ltx_folder,
        whole=tiny_ltx_transformer,
        spec=tiny_ltx_spec,
        prompts=tiny_masked_prompts,
        forward=ltx.forward,
        first={"proj_in"},
        last={"proj_out"},
        everywhere={"time_embed", "caption_projection", "scale_shift_table"},
        frames=41,
        size=(64, 96),
    ),
    "ltx condition": Loaded(
        family=LTXConditionFamily,
        make=tiny_ltx_condition_folder,
        whole=tiny_ltx_transformer,
        spec=tiny_ltx_spec,
        prompts=tiny_masked_prompts,
        forward=partial(ltx.forward, lead=7),
        first={"proj_in"},
        last={"proj_out"},
        everywhere={"time_embed", "caption_projection", "scale_shift_table"},
        frames=41,
        size=(64, 96),
    ),
    "mochi": Loaded(
        family=MochiFamily,
        make=tiny_mochi_folder,
        whole=tiny_mochi_transformer,
        spec=tiny_mochi_spec,
        prompts=tiny_masked_prompts,
        forward=mochi.forward,
        first={"patch_embed"},
        last={"norm_out", "proj_out"},
        everywhere={"time_embed", "pos_frequencies"},
        size=(32, 48),
    ),
}


@pytest.fixture(scope="module", params=LOADED)
def case(request: pytest.FixtureRequest) -> Loaded:
    return LOADED[request.param]


@pytest.fixture(scope="module")
def folder(case: Loaded, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return case.make(tmp_path_factory.mktemp("family"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(case: Loaded, folder: ModelFolder, layers: range) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    assert isinstance(family_of(folder), case.family)
    place = Placement(CPU, torch.float32)
    backbone: Any = case.family().load_backbone(folder, case.spec(), layers, place)
    held, model = backbone._transformer.state_dict(), case.whole()
    whole = model.state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    before = dict(zip(case.lists, (0, len(getattr(model, case.lists[0]))), strict=False))
    assert {int(p[1]) + before[p[0]] for p in parts if p[0] in case.lists} == set(layers)
    first = case.first if 0 in layers else set()
    last = case.last if LAYERS - 1 in layers else set()
    assert {p[0] for p in parts} - set(case.lists) == case.everywhere | first | last


def test_bf16_is_rounded_as_diffusers_does(case: Loaded, folder: ModelFolder) -> None:
    expected = type(case.whole()).from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    place = Placement(CPU, torch.bfloat16)
    backbone = case.family().load_backbone(folder, case.spec(), range(LAYERS), place)
    latents = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(case.prompts(1), place)
    whole = case.forward(expected, latents.bfloat16(), case.timestep, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, case.timestep, prompts, case.guidance).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


@pytest.mark.parametrize("case", [name for name in LOADED if LOADED[name].size], indirect=True)
def test_the_engine_makes_as_many_frames_as_asked_for(case: Loaded, folder: ModelFolder) -> None:
    assert case.size is not None
    height, width = case.size
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    prompts = (PromptAt(text="red"),)
    request = Request(prompts=prompts, num_frames=case.frames, height=height, width=width)
    events = Engine(generation_config, SingleDevice()).generate(request)
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    video = torch.cat(frames)
    assert video.shape == (case.frames, height, width, 3)
    assert video.float().std() > 1
