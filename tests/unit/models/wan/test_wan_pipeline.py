"""Wan end to end: equal to diffusers' own WanPipeline, each block with its own step's expert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor

from longtake.caches import NoCache
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import DiffusersSampler, ModelFolder, Placement, load_scheduler
from longtake.models.wan import WanBackbone, WanFamily
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import BlockDone, Denoising, Layout, SingleDevice
from longtake.task import Video
from longtake.testing.tiny.base import (
    BOUNDARY,
    LAYERS,
    TOKENS,
    TinyCase,
    tiny_denoising,
    tiny_wan_folder,
    tiny_wan_transformer,
)

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS = 4
FRAMES, HEIGHT, WIDTH = 3, 4, 6
PROMPTS = ["red shape moves left", "slow"]

UNIPC = "UniPCMultistepScheduler"
EULER = "FlowMatchEulerDiscreteScheduler"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], ModelFolder]:
    root: Path = tmp_path_factory.mktemp("wan")
    return {
        (experts, sampler): tiny_wan_folder(
            root / f"{experts}-{sampler}", experts=experts, sampler=sampler
        )
        for experts, sampler in ((1, UNIPC), (1, EULER), (2, UNIPC))
    }


def the_pipeline(folder: ModelFolder) -> Any:
    pipeline = WanPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def starting_latents() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator)


def full_sequence(folder: ModelFolder, scales: tuple[float, ...]) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts included."""
    family, guidance = WanFamily(), ClassifierFreeGuidance(GuidanceSettings(scales=scales))
    spec = family.spec(folder)
    backbone = family.load_backbone(folder, spec, range(LAYERS), PLACE)
    prompts = PROMPTS[: len(guidance.branches)]
    with torch.no_grad():
        text = backbone.condition_text(family.encode_text(folder, prompts, PLACE))
        work = Denoising(
            backbone=backbone,
            tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
            noise=iter([starting_latents()]),
            cache=NoCache(),
            sampler=DiffusersSampler(load_scheduler(folder, None, None), STEPS),
            guidance=guidance,
            text=lambda _frames, _branches: text,
            height=HEIGHT,
            width=WIDTH,
            device=CPU,
        )
        events = list(SingleDevice().run(work, Layout.serial(LAYERS, len(guidance.branches)), 0))
    assert isinstance(events[-1], BlockDone)
    return events[-1].latents


@pytest.mark.parametrize(
    ("experts", "sampler", "scales"),
    [
        (1, UNIPC, (5.0,)),
        (1, UNIPC, (1.0,)),
        (1, EULER, (5.0,)),
        (1, EULER, (1.0,)),
        (2, UNIPC, (4.0, 3.0)),
    ],
)
def test_a_full_sequence_is_the_pipeline(
    folders: dict[tuple[int, str], ModelFolder],
    experts: int,
    sampler: str,
    scales: tuple[float, ...],
) -> None:
    folder = folders[experts, sampler]
    second = {"guidance_scale_2": scales[1]} if experts == 2 else {}
    expected = the_pipeline(folder)(
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scales[0],
        latents=starting_latents(),
        output_type="latent",
        max_sequence_length=TOKENS,
        **second,
    ).frames
    found = full_sequence(folder, scales)
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5
    assert (found - starting_latents()).abs().max() > 0.1, "nothing has been denoised"


def test_prompts_are_encoded_as_the_pipeline_does(
    folders: dict[tuple[int, str], ModelFolder],
) -> None:
    folder, prompts = folders[1, UNIPC], ["a  red bird ", "", *["blue sea"] * 8]
    found = WanFamily().encode_text(folder, prompts, PLACE)["states"]
    with torch.no_grad():
        expected, _ = the_pipeline(folder).encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
    # Batches of another size.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("stride", [1, 2])
def test_each_block_uses_the_expert_of_its_own_step(stride: int) -> None:
    """Blocks at different noise levels stand side by side in one iteration."""
    queue = FifoQueue(3, 2, stride)
    case = TinyCase(scheduler=queue, scales=(3.0, 2.0))
    experts, used = [tiny_wan_transformer(seed) for seed in (0, 1)], []

    def note(expert: int) -> Any:
        return lambda *_: used.append(expert)

    for index, expert in enumerate(experts):
        expert.blocks[0].register_forward_hook(note(index))
    work = with_backbone(case, WanBackbone(case.spec, experts, range(LAYERS)))
    with torch.no_grad():
        list(SingleDevice().run(work, SingleDevice().layout(1, case.workload), 0))
    levels, tasks = work.sampler.timesteps, list(queue.tasks(Video(case.latent_frames, case.steps)))
    assert used == [int(levels[task.step] < BOUNDARY * 1000) for task in tasks]
    mixed = [i for i in {t.iteration for t in tasks} if len(experts_in(i, tasks, used)) == 2]
    assert mixed, "no iteration runs both experts: the test shows nothing"


def experts_in(iteration: int, tasks: list[Any], used: list[int]) -> set[int]:
    return {e for task, e in zip(tasks, used, strict=True) if task.iteration == iteration}


def with_backbone(case: TinyCase, backbone: WanBackbone) -> Denoising:
    return replace(tiny_denoising(case), backbone=backbone)
