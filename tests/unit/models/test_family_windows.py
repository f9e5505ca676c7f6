"""Windows of a queue, of every family with text in attention: what is kept, what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from tests.unit.models.cogvideox import test_cogvideox as cogvideox
from tests.unit.models.hunyuan_video import test_hunyuan_video as hunyuan_video
from tests.unit.models.mochi import test_mochi as mochi
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
    BackboneSpec,
    DiffusersSampler,
    Grid,
    PromptStates,
    Rotary,
    Sampler,
)
from longtake.models.layers.rotary import AxialRotary
from longtake.models.mochi import MochiFamily, MochiPositions
from longtake.strategies import Denoising
from longtake.testing.runs import serial_video, video_of_windows
from longtake.testing.tiny.base import (
    HEIGHT,
    WIDTH,
    TinyCase,
    tiny_masked_prompts,
    tiny_prompts,
    tiny_scheduler,
)
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox15_denoising,
    tiny_cogvideox15_spec,
    tiny_cogvideox_denoising,
    tiny_cogvideox_spec,
    tiny_cogvideox_transformer,
)
from longtake.testing.tiny.hunyuan_video import (
    EMBEDDED_SCALE,
    tiny_hunyuan_denoising,
    tiny_hunyuan_prompts,
    tiny_hunyuan_spec,
    tiny_hunyuan_transformer,
)
from longtake.testing.tiny.hunyuan_video15 import (
    tiny_hunyuan15_denoising,
    tiny_hunyuan15_spec,
)
from longtake.testing.tiny.kandinsky5 import (
    tiny_kandinsky5_denoising,
    tiny_kandinsky5_spec,
)
from longtake.testing.tiny.ltx import (
    tiny_ltx_condition_denoising,
    tiny_ltx_denoising,
    tiny_ltx_spec,
)
from longtake.testing.tiny.mochi import (
    tiny_mochi_denoising,
    tiny_mochi_scheduler,
    tiny_mochi_spec,
    tiny_mochi_transformer,
)

# diffusers runs Mochi's rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

Forward = Callable[[Any, Tensor, float, PromptStates], Tensor]
"""diffusers' own forward."""


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A family whose attention sees text and video together, or keeps no text anyway.

    Args:
        denoising: Makes the work of a case.
        spec: Of the tiny backbone.
        scales: Guidance scales to run with; of ``None``, the case's own.
        positions: The class that makes tables of positions, where text has one too.
    """

    denoising: Callable[[TinyCase], Denoising]
    spec: Callable[[], BackboneSpec]
    scales: tuple[float | None, ...] = (1.0, 3.0)
    positions: type[AxialRotary] | type[MochiPositions] | None = None


QUEUED = {
    "hunyuan": Queued(
        denoising=tiny_hunyuan_denoising, spec=tiny_hunyuan_spec, positions=AxialRotary
    ),
    "hunyuan 1.5": Queued(denoising=tiny_hunyuan15_denoising, spec=tiny_hunyuan15_spec),
    "kandinsky 5": Queued(
        denoising=tiny_kandinsky5_denoising, spec=tiny_kandinsky5_spec, scales=(None,)
    ),
    "ltx": Queued(denoising=tiny_ltx_denoising, spec=tiny_ltx_spec),
    "ltx condition": Queued(denoising=tiny_ltx_condition_denoising, spec=tiny_ltx_spec),
    "mochi": Queued(denoising=tiny_mochi_denoising, spec=tiny_mochi_spec, positions=MochiPositions),
    "cogvideox-rotary": Queued(
        denoising=tiny_cogvideox_denoising, spec=tiny_cogvideox_spec, scales=(None,)
    ),
    "cogvideox-pairs": Queued(
        denoising=tiny_cogvideox15_denoising, spec=tiny_cogvideox15_spec, scales=(None,)
    ),
    "cogvideox-waves": Queued(
        denoising=partial(tiny_cogvideox_denoising, rotary=False),
        spec=tiny_cogvideox_spec,
        scales=(None,),
    ),
}


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name, one in QUEUED.items() for scale in one.scales]
)
def test_a_queue_keeps_video_tokens_only(
    name: str, scale: float | None, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued, kept, origins = QUEUED[name], set[int](), set[int]()
    put, positions = FeatureStore.put, queued.positions

    def noting(store: FeatureStore, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        kept.add(k.shape[1])
        put(store, chunk, layer, k, v)

    monkeypatch.setattr(FeatureStore, "put", noting)
    if positions is not None:
        table: Callable[[Any, Grid], Rotary] = positions.table

        def noting_origin(where: Any, grid: Grid) -> Rotary:
            origins.add(grid.origin)
            return table(where, grid)

        monkeypatch.setattr(positions, "table", noting_origin)
    case = TinyCase(cache=cache) if scale is None else TinyCase(cache=cache, scales=(scale,))
    video = serial_video(queued.denoising(case))
    assert video.shape == (1, queued.spec().channels, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()
    # Two frames for the older neighbor; for the newer one as well, and what both see only once.
    frames = {"NextBlockKV": {2}, "SameStepKV": {1, 2}, "NoCache": set()}[type(cache).__name__]
    per_frame = queued.spec().tokens_per_frame(HEIGHT, WIDTH)
    assert kept == {count * per_frame for count in frames}
    if positions is not None:
        blocks = case.scheduler.blocks(case.latent_frames)
        assert origins == {max(0, block.start - 2) for block in blocks}, "text moves with the cache"


@dataclass(frozen=True, kw_only=True)
class Windowed:
    """A family with diffusers' forward of a window, and the sampler of its tiny case."""

    denoising: Callable[[TinyCase], Denoising]
    whole: Callable[[], Any]
    prompts: Callable[[int], PromptStates]
    forward: Forward
    sampler: Callable[[TinyCase], Sampler]


def _of_states(transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
    return cogvideox.forward(transformer, latents, timestep, prompts["states"])


WINDOWED = {
    "hunyuan": Windowed(
        denoising=tiny_hunyuan_denoising,
        whole=tiny_hunyuan_transformer,
        prompts=tiny_hunyuan_prompts,
        forward=partial(hunyuan_video.forward, scale=EMBEDDED_SCALE),
        sampler=lambda case: DiffusersSampler(tiny_scheduler(case.sampler), case.steps),
    ),
    "mochi": Windowed(
        denoising=tiny_mochi_denoising,
        whole=tiny_mochi_transformer,
        prompts=tiny_masked_prompts,
        forward=mochi.forward,
        sampler=lambda case: DiffusersSampler(
            tiny_mochi_scheduler(), case.steps, MochiFamily().sigmas(case.steps)
        ),
    ),
    "cogvideox": Windowed(
        denoising=tiny_cogvideox_denoising,
        whole=tiny_cogvideox_transformer,
        prompts=tiny_prompts,
        forward=_of_states,
        sampler=lambda case: tiny_cogvideox_denoising(case).sampler,
    ),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window(name: str) -> None:
    """Which restarts positions in every window: text stands where the window begins."""
    windowed, case = WINDOWED[name], TinyCase(cache=NoCache(), scales=(1.0,))
    prompts, model = windowed.prompts(1), windowed.whole()

    def predict(window: Tensor, timestep: float) -> Tensor:
        return windowed.forward(model, window, timestep, prompts)

    found, expected = (
        serial_video(windowed.denoising(case)),
        video_of_windows(case, windowed.sampler(case), predict),
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
