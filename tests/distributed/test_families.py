"""Families on ranks: the video of the serial run, wherever layers, tokens and branches run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from longtake.caches import NextBlockKV, NoCache, SameStepKV
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    BlockDone,
    Communicator,
    Denoising,
    DualParal,
    Layout,
    SingleDevice,
)
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import LAYERS, TinyCase, tiny_denoising
from longtake.testing.tiny.cogvideox import tiny_cogvideox15_denoising, tiny_cogvideox_denoising
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_denoising
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_denoising
from longtake.testing.tiny.hunyuan_video_i2v import tiny_hunyuan_i2v_denoising
from longtake.testing.tiny.kandinsky5 import tiny_kandinsky5_denoising
from longtake.testing.tiny.ltx import tiny_ltx_condition_denoising, tiny_ltx_denoising
from longtake.testing.tiny.mochi import tiny_mochi_denoising
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_denoising
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_denoising
from longtake.testing.tiny.wan_i2v import tiny_start, tiny_wan_i2v_denoising

Work = Callable[[TinyCase, Collection[int], Communicator], Denoising]
"""Makes the work of one rank that holds some layers; sent to the ranks, so no local function."""

MESHES: Final = (
    Mesh(pipe=2),
    Mesh(pipe=3),
    Mesh(ulysses=2),
    Mesh(ring=3),
    Mesh(pipe=2, ring=2),
    Mesh(ring=2, ulysses=2),
)
CACHES: Final = {"next": NextBlockKV(), "same": SameStepKV()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is run of one family.

    Args:
        work: Makes the work of one rank.
        cut: Layers of each of two stages.
        cases: What is denoised, by name.
        meshes: The ranks.
    """

    work: Work
    cut: tuple[int, int]
    cases: Mapping[str, TinyCase]
    meshes: Sequence[Mesh] = MESHES

    def layout(self, mesh: Mesh, branches: int) -> Layout:
        """Return the layout of a mesh of up to three stages."""
        sizes = {1: [LAYERS], 2: self.cut, 3: [1, 2, 1]}[mesh.pipe]
        stages = tuple(range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes)))
        return Layout(mesh=mesh, stages=stages, batches=(range(branches),))


def cached(**scales: tuple[float, ...]) -> dict[str, TinyCase]:
    """Return a case for each cache and each of the guidance scales."""
    return {
        f"{name}-{scale}": TinyCase(cache=cache, scales=scales[scale])
        for name, cache in CACHES.items()
        for scale in scales
    }


def replaced_start(
    case: TinyCase, layers: Collection[int], communicator: Communicator
) -> Denoising:
    """Return the work of a model whose given frames take the place of noise."""
    return replace(tiny_denoising(case, layers, communicator), start=tiny_start(7))


WAN_I2V_MESHES: Final = (
    Mesh(pipe=2),
    Mesh(pipe=3),
    Mesh(ulysses=2),
    Mesh(ring=2),
    Mesh(pipe=2, ring=2),
)
FAMILIES: Final = {
    # Text tokens travel with the video tokens, and so do added positions: three heads on two
    # devices, and tokens that no degree divides.
    "cogvideox-rotary": Family(
        work=tiny_cogvideox_denoising, cut=(2, 2), cases=cached(guided=(5.0,))
    ),
    "cogvideox-waves": Family(
        work=partial(tiny_cogvideox_denoising, rotary=False),
        cut=(2, 2),
        cases=cached(guided=(5.0,)),
    ),
    # Tokens of two latent frames each.
    "cogvideox15": Family(work=tiny_cogvideox15_denoising, cut=(2, 2), cases=cached(guided=(5.0,))),
    "cogvideox15_i2v": Family(
        work=partial(tiny_cogvideox15_denoising, image=True),
        cut=(2, 2),
        cases={"next-guided": TinyCase(scales=(5.0,))},
        meshes=(Mesh(pipe=2), Mesh(pipe=3), Mesh(ulysses=2), Mesh(ring=2)),
    ),
    # Cut between dual and single layers, and within both.
    "hunyuan_video": Family(
        work=tiny_hunyuan_denoising,
        cut=(2, 2),
        cases=cached(embedded=(1.0,), both=(3.0,)),
        meshes=(*MESHES, Mesh(ring=2)),
    ),
    # The given frame's tokens are at a level of their own, wherever they are cut.
    "hunyuan_video_token_replace": Family(
        work=tiny_hunyuan_i2v_denoising,
        cut=(2, 2),
        cases=cached(embedded=(1.0,)),
        meshes=(*MESHES, Mesh(ring=2)),
    ),
    "hunyuan_video_latent_concat": Family(
        work=partial(tiny_hunyuan_i2v_denoising, condition="latent_concat"),
        cut=(1, 3),
        cases={"next-guided": TinyCase(scales=(3.0,))},
        meshes=MESHES[:-1],
    ),
    # Glyphs and prompts travel with the video tokens. Neither the three heads nor the windows'
    # tokens can be divided evenly.
    "hunyuan_video15": Family(
        work=tiny_hunyuan15_denoising,
        cut=(2, 2),
        cases=cached(plain=(1.0,), guided=(3.0,)),
        meshes=MESHES[:-1],
    ),
    # Text has layers of its own, which every rank runs for each task; three heads on two devices.
    "kandinsky5": Family(
        work=tiny_kandinsky5_denoising, cut=(2, 2), cases=cached(plain=(1.0,), guided=(5.0,))
    ),
    # The first frame is marked in an input channel of the block that has it.
    "kandinsky5_i2v": Family(
        work=partial(tiny_kandinsky5_denoising, image=True),
        cut=(2, 2),
        cases={"next": TinyCase(scales=(3.0,))},
        meshes=MESHES[:-1],
    ),
    # Each head chooses keys among all tokens, kept ones included: no ring.
    "kandinsky5_nabla": Family(
        work=partial(tiny_kandinsky5_denoising, nabla=True),
        cut=(2, 2),
        cases={"next": TinyCase(scales=(1.0,), latent_frames=7)},
        meshes=(Mesh(pipe=2), Mesh(pipe=3), Mesh(ulysses=2)),
    ),
    # Positions that run through all heads go along when heads are exchanged.
    "ltx": Family(work=tiny_ltx_denoising, cut=(1, 3), cases=cached(alone=(1.0,), guided=(3.0,))),
    # The first frame stands at a distance of its own.
    "ltx_condition": Family(
        work=tiny_ltx_condition_denoising, cut=(1, 3), cases=cached(guided=(3.0,))
    ),
    # Narrow text tokens travel with the video tokens, and every head turns its way.
    "mochi": Family(
        work=tiny_mochi_denoising, cut=(1, 3), cases=cached(alone=(1.0,), guided=(3.0,))
    ),
    # Two full layers, then a sparse one of each kind, which group the window's tokens, whoever
    # holds them. Neither the 3 heads nor the tokens of a window's groups divide evenly.
    "open_sora_plan": Family(
        work=tiny_open_sora_plan_denoising,
        cut=(3, 1),
        cases=cached(guided=(5.0,)),
        meshes=(*MESHES, Mesh(ring=2)),
    ),
    # A noise level per frame modulates its own tokens, wherever they are cut.
    "skyreels_v2": Family(
        work=tiny_skyreels_denoising,
        cut=(2, 2),
        cases={
            "next": TinyCase(scheduler=FifoQueue(3, 2, 1), cache=NextBlockKV()),
            "none": TinyCase(scheduler=FifoQueue(3, 2, 2), cache=NoCache()),
        },
    ),
    # Given frames, in channels of their own or in place of noise.
    "wan_i2v": Family(
        work=tiny_wan_i2v_denoising,
        cut=(3, 1),
        cases=cached(one=(3.0,), two=(3.0, 2.0)),
        meshes=WAN_I2V_MESHES,
    ),
    # The last frame is in the last block alone; every stage attends to both images.
    "wan_flf2v": Family(
        work=partial(tiny_wan_i2v_denoising, images=2),
        cut=(3, 1),
        cases={"next": TinyCase(scales=(3.0,))},
        meshes=WAN_I2V_MESHES,
    ),
    "wan_replaced": Family(
        work=replaced_start, cut=(3, 1), cases=cached(guided=(3.0,)), meshes=WAN_I2V_MESHES
    ),
}


@torch.no_grad()
def run(communicator: Communicator, work: Work, case: TinyCase, layout: Layout) -> Sequence[Tensor]:
    """Return the blocks, on the output rank."""
    strategy = SingleDevice() if communicator.world_size == 1 else DualParal()
    denoising = work(case, layout.layers(communicator.rank), communicator)
    events = strategy.run(denoising, layout, communicator.rank)
    return [event.latents for event in events if isinstance(event, BlockDone)]


@cache
def serial(name: str, case: str) -> Sequence[Tensor]:
    """Return the blocks of the serial run, the same for all meshes."""
    family = FAMILIES[name]
    layout = Layout.serial(LAYERS, branches(family.cases[case]))
    return run(Communicator.alone(), family.work, family.cases[case], layout)


def branches(case: TinyCase) -> int:
    return len(ClassifierFreeGuidance(GuidanceSettings(scales=case.scales)).branches)


def runs() -> Iterator[Any]:
    """Return every family's cases on its meshes."""
    for name, family in FAMILIES.items():
        for case in family.cases:
            for mesh in family.meshes:
                yield pytest.param(name, case, mesh, id=f"{name}-{case}-{mesh}")


@pytest.mark.parametrize(("name", "case", "mesh"), list(runs()))
def test_ranks_make_the_video_of_the_serial_run(name: str, case: str, mesh: Mesh) -> None:
    family = FAMILIES[name]
    layout = family.layout(mesh, branches(family.cases[case]))
    found = rank_pool(mesh.size).run(run, family.work, family.cases[case], layout)[0]
    # Other operand shapes sum in another order; several steps amplify it.
    tolerance = 0.0 if mesh.size == mesh.pipe else 1e-4
    for block, whole in zip(found, serial(name, case), strict=True):
        assert (block - whole).abs().max() <= tolerance * whole.abs().max()


def test_guidance_off_is_one_branch() -> None:
    family, case = FAMILIES["cogvideox-rotary"], TinyCase(scales=(1.0,))
    expected = run(Communicator.alone(), family.work, case, Layout.serial(LAYERS, 1))
    found = rank_pool(2).run(run, family.work, case, family.layout(Mesh(pipe=2), 1))[0]
    assert all(torch.equal(block, whole) for block, whole in zip(found, expected, strict=True))
