"""Recorded cases of published long-video methods: their schedules as data, and their models.

The folders are those of ``tests/cases``, or of the environment variable LONGTAKE_REFERENCE, which
may name one case folder or a folder of them. A case's kind is told from its files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from longtake.caches import FeatureCache, Forward, NoCache, RollingKV, forwards
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler
from longtake.models.wan import WanBackbone
from longtake.noise import StepNoise
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    ContextWindows,
    FrameQueue,
    RollingWindow,
)
from longtake.strategies import Denoising
from longtake.task import Video

ROOT = Path(__file__).parents[2] / "cases"
SCHEDULES = {
    "standard_static": "static",
    "standard_uniform": "uniform",
    "looped_uniform": "looped",
    "batched": "batched",
}
"""ComfyUI's names of window schedules, and ours."""


def _schedule(data: dict[str, Any]) -> str:
    """Return our name of a case's window schedule."""
    name = SCHEDULES[data["schedule"]]
    return "looped_open" if name == "looped" and not data["closed_loop"] else name


def folders(*kinds: str) -> list[Path]:
    """Return the case folders of some kinds."""
    root = Path(os.environ.get("LONGTAKE_REFERENCE", ROOT))
    candidates = [root] if (root / "case.json").is_file() else sorted(root.iterdir())
    found = [one for one in candidates if (one / "case.json").is_file()]
    return [one for one in found if kind_of(one) in kinds]


def kind_of(folder: Path) -> str:
    """Tell a case's kind from its files; empty for one of another kind."""
    case = json.loads((folder / "case.json").read_text())
    if "queue_slots" in case:
        return "queue"
    if "fuse" in case:
        return "windows"
    if "denoising_step_list" in case and "forwards" in case:
        return "rolling-window" if "cache_frames" in case else "autoregressive"
    return ""


@final
@dataclass(frozen=True)
class MethodCase:
    """A recorded run of a published method.

    Args:
        folder: Of the case.
    """

    folder: Path

    @cached_property
    def data(self) -> dict[str, Any]:
        """What ``case.json`` says."""
        loaded: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return loaded

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Noise and prompts."""
        tensors: dict[str, Tensor] = load_file(self.folder / "inputs.safetensors")
        return tensors

    @property
    def expected(self) -> Tensor:
        """The final latents."""
        latents: Tensor = load_file(self.folder / "expected.safetensors")["latents"]
        return latents

    @property
    def kind(self) -> str:
        """From ``kind_of``."""
        return kind_of(self.folder)

    @property
    def video(self) -> Video:
        """What the schedule is made for."""
        data = self.data
        return Video(
            data["latents_shape"][2],
            data["steps"],
            tuple(data.get("switch_frames") or ()),
            data.get("clip_frames_f", 0),
        )

    @property
    def scheduler(self) -> BlockScheduler:
        """The published method's."""
        data = self.data
        match self.kind:
            case "autoregressive":
                return Autoregressive(data["block_frames"])
            case "rolling-window":
                return RollingWindow(data["block_frames"])
            case "windows":
                return ContextWindows(
                    data["length"],
                    data["overlap"],
                    _schedule(data),  # type: ignore[arg-type]
                    data["fuse"],
                    data["stride"],
                )
        return FrameQueue(data["clip_frames_f"], data["partitions_n"], data["lookahead"])

    @property
    def cache(self) -> FeatureCache:
        """The published method's."""
        data = self.data
        match self.kind:
            case "autoregressive":
                frames = data["local_attn_frames"]
                return RollingKV(
                    frames if frames and frames > 0 else None,
                    data["sink_frames"] or 0,
                    keep_sinks=data["global_sink"] is not False,
                )
            case "rolling-window":
                return RollingKV(
                    data["attention_frames"],
                    data["sink_frames"],
                    data["cache_frames"],
                    moved_sinks=True,
                )
        return NoCache()

    def forwards(self) -> list[Forward]:
        """Return what the method forwards, reads, keeps and drops, as data."""
        return list(forwards(self.scheduler.tasks(self.video), self.cache))

    @property
    def prompt_at(self) -> Callable[[int], int]:
        """Which prompt holds at a latent frame: its number."""
        changes = self.video.prompt_changes
        return lambda frame: sum(change <= frame for change in changes)

    @torch.no_grad()
    def denoising(self) -> Denoising:
        """Return the case as strategies run it."""
        data, inputs, backbone = self.data, self.inputs, self.backbone
        guidance = ClassifierFreeGuidance(GuidanceSettings(scales=(data["guidance_scale"],)))
        texts = {}
        for number in range(len(self.video.prompt_changes) + 1):
            name = f"prompt_embeds.{number}"
            prompts = [inputs[name if name in inputs else "prompt_embeds"]]
            if len(guidance.branches) == 2:
                prompts.append(inputs["negative_prompt_embeds"])
            texts[number] = backbone.condition_text({"states": torch.cat(prompts)})
        scheduler = self.scheduler
        return Denoising(
            backbone=backbone,
            tasks=scheduler.tasks(self.video),
            noise=self._noise(),
            cache=self.cache,
            sampler=self.sampler,
            guidance=guidance,
            text=lambda frames, _branches: texts[self.prompt_at(frames.start)],
            height=data["latents_shape"][3],
            width=data["latents_shape"][4],
            device=torch.device("cpu"),
            step_noise=RecordedNoise(self),
            clip=inputs.get("clip"),
        )

    @property
    def sampler(self) -> DiffusersSampler:
        """Euler's method; where the case has noise for its steps, with all noise drawn anew."""
        data, steps = self.data, self.data["steps"]
        listed = data.get("denoising_step_list")
        stochastic = listed is not None
        sigmas = [one / 1000 for one in listed or ()] or [1 - step / steps for step in range(steps)]
        scheduler = FlowMatchEulerDiscreteScheduler(
            shift=data["shift"], stochastic_sampling=stochastic
        )
        return DiffusersSampler(scheduler, steps, sigmas)

    @property
    def backbone(self) -> WanBackbone:
        """The case's model."""
        config = json.loads((self.folder / "config.json").read_text())
        transformer = WanTransformer3DModel.from_config(config)
        transformer.load_state_dict(load_file(self.folder / "transformer.safetensors"))
        transformer.requires_grad_(False).eval()
        several = self.kind in ("rolling-window", "queue")
        spec = BackboneSpec(
            name=self.folder.name,
            channels=transformer.config.in_channels,
            patch=tuple(transformer.config.patch_size),
            heads=transformer.config.num_attention_heads,
            head_dim=transformer.config.attention_head_dim,
            layers=transformer.config.num_layers,
            native_frames=21,
            compression=Compression(temporal=4, spatial=8),
            timestep="frame" if several else "clip",
        )
        return WanBackbone(spec, [transformer], range(spec.layers))

    def _noise(self) -> Iterator[Tensor]:
        """Yield the starting noise of the video's blocks."""
        if self.kind == "windows":
            yield self.inputs["noise"]
            return
        for block, _ in enumerate(self.scheduler.blocks(self.video.latent_frames)):
            if self.kind == "queue":
                yield queue_noise(self, block)
            else:
                yield self.inputs[f"noise.{block}"]


@final
class RecordedNoise(StepNoise):
    """The recorded noise of steps and of what warms a queue up.

    Args:
        case: Whose.
    """

    def __init__(self, case: MethodCase) -> None:
        self._case = case

    @override
    def draw(self, block: int, version: int, frames: int) -> Tensor:
        inputs = self._case.inputs
        if version == -1:  # a queue's block that is never emitted
            return queue_noise(self._case, block)
        name = f"renoise.{block}.{version + 1}"
        if name in inputs:
            return inputs[name]
        shape = self._case.data["latents_shape"]
        return torch.zeros(1, shape[1], frames, *shape[3:])  # the last step adds none

    @override
    def mixed(self, index: int, first: int, frames: int) -> Tensor:
        raise NotImplementedError


def queue_noise(case: MethodCase, block: int) -> Tensor:
    """Return the noise with which a frame of a queue comes in.

    Frames that come in later are recorded; for those of the first queue their noised latents are,
    from which the noise follows.
    """
    data, inputs = case.data, case.inputs
    for forward in case.forwards():
        for enter in forward.task.enters:
            if enter.block == block:
                frame = enter.frames.start
                if enter.source is None:
                    return inputs[f"fresh.{frame - data['clip_frames_f']}"]
                slot = frame - (data["clip_frames_f"] - data["queue_slots"])
                sigma = case.sampler.scheduler.sigmas[enter.level]
                clip = inputs["clip"][:, :, max(0, frame)][:, :, None]
                start = inputs["queue_start"][:, :, slot : slot + 1]
                noise: Tensor = (start - (1 - sigma) * clip) / sigma
                return noise
    raise KeyError(f"block {block} never comes in")
