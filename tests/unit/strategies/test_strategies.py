"""Strategies: the contract, an oracle for the serial run itself, and what SameStepKV saves."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from longtake.caches import (
    FeatureCache,
    NextBlockKV,
    NoCache,
    SameStepKV,
    peak_held_frames,
)
from longtake.errors import ConfigurationError
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler
from longtake.models.wan import WanBackbone
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    Axis,
    BlockDone,
    BlockQueue,
    Denoising,
    GuidedBlocks,
    Mesh,
    ParallelStrategy,
    SingleDevice,
    TaskForward,
)
from longtake.task import Video
from longtake.testing.contracts import ParallelStrategyContract
from longtake.testing.tiny.base import (
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_wan_transformer,
)


class TestSingleDevice(ParallelStrategyContract):
    impossible = (0, 2, 8)

    def strategy(self) -> ParallelStrategy:
        return SingleDevice()


def run_serially(case: TinyCase) -> list[Tensor]:
    strategy = SingleDevice()
    with torch.no_grad():
        events = strategy.run(tiny_denoising(case), strategy.layout(1, case.workload), 0)
        return [event.latents for event in events if isinstance(event, BlockDone)]


@torch.no_grad()
def recompute(case: TinyCase) -> list[Tensor]:
    """Denoise with diffusers' own forward on plain tensors: every context recomputed."""
    noise = list(tiny_denoising(case).noise)
    latents, finished = list(noise), []
    transformer = tiny_wan_transformer(case.seed)
    prompts = tiny_prompts(2, 1)
    schedulers = [tiny_scheduler(case.sampler) for _ in noise]
    for scheduler in schedulers:
        scheduler.set_timesteps(case.steps)
    entered: set[int] = set()
    context = 2
    for task in case.scheduler.tasks(Video(case.latent_frames, case.steps)):
        b = task.block
        entered.add(b)
        before = latents[b - 1][:, :, -context:] if b else noise[0][:, :, :0]
        after = latents[b + 1][:, :, :context] if b + 1 in entered else noise[0][:, :, :0]
        window = torch.cat([before, latents[b], after], dim=2)
        timestep = schedulers[b].timesteps[task.step]
        cond, uncond = (
            transformer(window, timestep.expand(1), row[None], return_dict=False)[0]
            for row in prompts["states"]
        )
        own = slice(before.shape[2], before.shape[2] + latents[b].shape[2])
        prediction = (uncond + case.scales[0] * (cond - uncond))[:, :, own]
        latents[b] = schedulers[b].step(prediction, timestep, latents[b], return_dict=False)[0]
        if task.finished:
            finished.append(latents[b])
    return finished


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("latent_frames", [4, 11, 12])
def test_without_a_cache_a_run_is_plain_forwards_on_windows(
    stride: int, latent_frames: int
) -> None:
    """An oracle that shares no code with the serial run but the schedule and the noise."""
    queue = FifoQueue(3, 2, stride)
    case = TinyCase(scheduler=queue, cache=NoCache(), latent_frames=latent_frames)
    found, expected = torch.cat(run_serially(case), 2), torch.cat(recompute(case), 2)
    # Positions that restart in every window round otherwise; 4 steps with guidance 5 amplify it.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_caches_matter_only_where_there_is_context() -> None:
    """With no context all caches do the same; with some, each is its own approximation."""
    caches: list[FeatureCache] = [NoCache(), NextBlockKV(), SameStepKV()]
    for context, alike in ((0, True), (2, False)):
        runs = [
            torch.cat(run_serially(TinyCase(scheduler=FifoQueue(3, context), cache=cache)), 2)
            for cache in caches
        ]
        assert torch.equal(runs[0], runs[1]) is alike
        assert torch.equal(runs[1], runs[2]) is alike


def kind(thing: object) -> str:
    return type(thing).__name__


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=kind)
def test_the_budget_is_what_a_run_really_holds(cache: FeatureCache, stride: int) -> None:
    queue = FifoQueue(3, 2, stride)
    case = TinyCase(scheduler=queue, cache=cache, latent_frames=20)
    work = tiny_denoising(case)
    model, blocks, guided = TaskForward(work), BlockQueue(work), GuidedBlocks(work)
    peak = 0
    with torch.no_grad():
        for forward in work.forwards:
            hidden = model.embed(forward, blocks.latents(forward))
            hidden = model.layers(forward, hidden, range(work.backbone.spec.layers))
            prediction = guided.combine(forward.task, model.predict(forward, hidden))
            list(blocks.step(forward, prediction))
            peak = max(peak, model.store.held_bytes)
    spec = work.backbone.spec
    per_frame = 2 * spec.tokens_per_frame(work.height, work.width) * spec.model_dim * 4
    predicted = peak_held_frames(cache, queue.tasks(Video(20, case.steps)))
    assert peak == predicted * per_frame * len(work.guidance.branches) * spec.layers
    assert model.store.chunks() == []


def wide_work(cache: FeatureCache) -> Denoising:
    """Return an endless video by a Wan 1.3B shrunk in proportion, on the meta device.

    Model dim 1536, feed-forward 8960, 1560 tokens per frame, head dim 128: all but the head dim
    and the layers divided by 6.
    """
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=2, ffn_dim=1493, num_layers=2, text_dim=683
        ).eval()
        text_states = torch.empty(1, 85, 683)
    spec = BackboneSpec(
        name="wide",
        channels=16,
        patch=(1, 2, 2),
        heads=2,
        head_dim=128,
        layers=2,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )
    backbone = WanBackbone(spec, [transformer], range(2))
    text = backbone.condition_text({"states": text_states})
    return Denoising(
        backbone=backbone,
        tasks=FifoQueue(8, 8).tasks(Video(None, 4)),
        noise=iter(()),
        cache=cache,
        sampler=DiffusersSampler(tiny_scheduler(), 4),
        guidance=ClassifierFreeGuidance(GuidanceSettings(scales=(1.0,))),
        text=lambda _frames, _branches: text,
        height=26,
        width=40,
        device=torch.device("meta"),
    )


def flops_of_one_task(cache: FeatureCache) -> int:
    """Count the multiplications and additions of one task amid a video."""
    work = wide_work(cache)
    model = TaskForward(work)
    with torch.no_grad():
        for forward in work.forwards:
            task = forward.task
            latents = torch.empty(1, 16, len(forward.window.frames), 26, 40, device="meta")
            with FlopCounterMode(display=False) as counter:
                hidden = model.embed(forward, latents)
                model.predict(forward, model.layers(forward, hidden, range(2)))
            if (task.block, task.step) == (4, 1):  # both neighbors are in flight
                return int(counter.get_total_flops())
    raise AssertionError("the video is endless")


def test_same_step_kv_halves_the_work_of_a_task() -> None:
    caches = (SameStepKV(), NextBlockKV(), NoCache())
    same_step, next_block, neither = map(flops_of_one_task, caches)
    assert same_step > 1e9
    assert 0.48 * next_block <= same_step <= 0.52 * next_block
    assert same_step <= 0.36 * neither, "a third: 8 of 24 frames are queries"


def test_a_mesh_numbers_ranks_outer_to_inner() -> None:
    mesh = Mesh(data=2, cfg=2, pipe=3, ulysses=2)
    assert mesh.size == 24
    found = [tuple(mesh.coordinate(rank).values()) for rank in range(mesh.size)]
    assert found == sorted(found)
    assert len(set(found)) == 24
    assert mesh.coordinate(23) == dict(zip(Axis, (1, 1, 2, 0, 1), strict=True))
    with pytest.raises(ValueError, match="rank 24"):
        mesh.coordinate(24)


def test_single_device_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"denoises on 1 device, but 4.*trainer\.devices"):
        SingleDevice().layout(4, TinyCase().workload)
