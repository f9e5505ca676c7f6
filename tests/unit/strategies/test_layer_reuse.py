"""Layers that are reused on one device: diffusers' first-block cache, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from longtake.caches import Chunk, FeatureCache, FeatureStore, NextBlockKV, NoCache, SameStepKV
from longtake.plan.ir.actions import Compute
from longtake.reuse import FirstBlockCache, LayerReuse
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import ActionDone, BlockDone, Denoising, Layout, SingleDevice
from longtake.testing.tiny.base import (
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_wan_transformer,
)

CLIP: Final = TinyCase(
    scheduler=FullSequence(),
    latent_frames=5,
    cache=NoCache(),
    scales=(1.0,),
    steps=12,
    sampler="FlowMatchEulerDiscreteScheduler",
)


def decided(work: Denoising) -> tuple[list[bool], list[Tensor]]:
    """Return whether each forward's layers were reused, and the blocks."""
    layout = Layout.serial(work.backbone.spec.layers, len(work.guidance.branches))
    events = list(SingleDevice().run(work, layout, 0))
    words = [
        event.reused
        for event in events
        if isinstance(event, ActionDone) and isinstance(event.action, Compute)
    ]
    return words, [event.latents for event in events if isinstance(event, BlockDone)]


@pytest.mark.parametrize("threshold", [0.4, 0.6])
@torch.no_grad()
def test_a_video_is_that_of_diffusers_first_block_cache(threshold: float) -> None:
    words, (made,) = decided(tiny_denoising(replace(CLIP, reuse=FirstBlockCache(threshold))))
    work = tiny_denoising(CLIP)
    transformer, calls = tiny_wan_transformer(), []
    transformer.blocks[1].attn1.register_forward_hook(lambda *_: calls.append(1))
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    latents, sampler, expected = next(work.noise), work.sampler.start(), []
    for timestep in work.sampler.timesteps:
        before = len(calls)
        with transformer.cache_context("cond"):
            states = tiny_prompts(2, 1)["states"][:1]
            told = torch.tensor([timestep])
            predicted = transformer(latents, told, states, return_dict=False)[0]
        latents = sampler.step(predicted, latents)
        expected.append(len(calls) == before)
    assert words == expected
    assert 2 <= sum(words) <= 10
    assert (made - latents).abs().max() <= 1e-5 * latents.abs().max()


@torch.no_grad()
def test_blocks_and_experts_have_their_own() -> None:
    case = TinyCase(
        scheduler=FifoQueue(3, 2), cache=NoCache(), steps=6, latent_frames=11, scales=(2.0, 2.0)
    )
    always = Always()
    words, _ = decided(tiny_denoising(replace(case, reuse=always)))
    tasks = list(case.workload.tasks())
    spec, timesteps = case.spec, tiny_denoising(case).sampler.timesteps
    frames = [forward.window.frames for forward in case.workload.forwards()]
    seen: dict[tuple[int, tuple[int, ...], int], int] = {}
    for task, window, reused in zip(tasks, frames, words, strict=True):
        key = task.block, window, spec.expert(timesteps[task.step])
        # Reused where the block's last step had the same window and expert, and nowhere else.
        assert reused == (seen.get(key) == task.step - 1)
        seen[key] = task.step
    assert any(words)


@torch.no_grad()
def test_a_threshold_of_nothing_changes_nothing() -> None:
    _, (plain,) = decided(tiny_denoising(CLIP))
    words, (same,) = decided(tiny_denoising(replace(CLIP, reuse=FirstBlockCache(0.0))))
    assert not any(words)
    assert torch.equal(same, plain)


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV()], ids=repr)
@torch.no_grad()
def test_layers_that_are_passed_by_leave_what_they_left_before(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = TinyCase(scheduler=FifoQueue(3, 2), cache=cache, steps=6, latent_frames=11)
    found: dict[tuple[int, int], Tensor] = {}
    put = FeatureStore.put

    def noted(store: FeatureStore, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        found[chunk.index, layer] = k
        put(store, chunk, layer, k, v)

    monkeypatch.setattr(FeatureStore, "put", noted)
    words, _ = decided(tiny_denoising(replace(case, reuse=Always())))
    last: dict[tuple[int, tuple[int, ...]], int] = {}
    compared = 0
    for forward, reused in zip(case.workload.forwards(), words, strict=True):
        index, part = forward.task.index, (forward.task.block, forward.window.frames)
        if reused and forward.window.keeps:
            for layer in range(1, 4):
                assert found[index, layer] is found[last[part], layer]
            assert not torch.equal(found[index, 0], found[last[part], 0])
            compared += 1
        last[part] = index
    assert compared >= 4


class Always(LayerReuse):
    def decide(self, change: float, at: object, memory: float) -> tuple[bool, float]:
        del change, at, memory
        return True, 0.0
