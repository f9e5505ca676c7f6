"""Device runs: a short video of every family and method, with all its parts, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from PIL import Image
from torch import Tensor

from longtake.caches import AnchorKV, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import DiffusersScheduler, ModelFolder
from longtake.noise import FreeNoise, Independent
from longtake.schedulers import (
    Autoregressive,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import HEIGHT, WIDTH, tiny_wan_folder
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox15_folder,
    tiny_cogvideox_folder,
    tiny_cogvideox_i2v_folder,
)
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder, tiny_hunyuan15_i2v_folder
from longtake.testing.tiny.ltx import tiny_ltx_condition_folder, tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_folder
from longtake.testing.tiny.published import published_folder
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_folder, tiny_skyreels_i2v_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_folder

EULER: Final = "FlowMatchEulerDiscreteScheduler"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRun:
    """What is made.

    Args:
        folder: Saves a tiny model.
        settings: Of the generation config, beside the number of steps.
        start: Whether the video starts from an image.
        second_prompt: Whether the prompt changes.
        latent_frames: How many.
    """

    folder: Callable[[Path], ModelFolder]
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False
    second_prompt: bool = False
    latent_frames: int = 7


_QUEUE: Final = {"scheduler": FifoQueue(2, 1)}
_SAME_STEP: Final = {"scheduler": FifoQueue(2, 1), "cache": SameStepKV()}
_CAUSAL: Final = {
    "cache": RollingKV(5, 1),
    "noise": Independent(),
    "sampler": DiffusersScheduler(scheduler=EULER, options={"stochastic_sampling": True}),
}
_CLIP: Final = {"scheduler": FullSequence(), "cache": NoCache()}
FAMILIES: Final = {
    "Wan": DeviceRun(folder=tiny_wan_folder, settings=_QUEUE, start=True),
    "Wan, two experts": DeviceRun(
        folder=partial(tiny_wan_folder, experts=2), settings=_SAME_STEP, second_prompt=True
    ),
    "Wan I2V": DeviceRun(folder=tiny_wan_i2v_folder, settings=_QUEUE, start=True),
    "Wan I2V, two experts": DeviceRun(
        folder=partial(tiny_wan_i2v_folder, experts=2), settings=_SAME_STEP, start=True
    ),
    "Wan TI2V": DeviceRun(folder=tiny_ti2v_folder, settings=_QUEUE, start=True),
    "SkyReels-V2": DeviceRun(
        folder=partial(tiny_skyreels_folder, diffusion_forcing=False), settings=_SAME_STEP
    ),
    "SkyReels-V2 DF": DeviceRun(folder=tiny_skyreels_folder, settings=_QUEUE, start=True),
    "SkyReels-V2 I2V": DeviceRun(folder=tiny_skyreels_i2v_folder, settings=_QUEUE, start=True),
    "HunyuanVideo": DeviceRun(folder=tiny_hunyuan_folder, settings=_SAME_STEP),
    "HunyuanVideo I2V": DeviceRun(
        folder=partial(published_folder, "HunyuanVideo-I2V"), settings=_QUEUE, start=True
    ),
    "HunyuanVideo I2V, channels": DeviceRun(
        folder=partial(published_folder, "HunyuanVideo-I2V-33ch"), settings=_SAME_STEP, start=True
    ),
    "HunyuanVideo 1.5": DeviceRun(folder=tiny_hunyuan15_folder, settings=_QUEUE),
    "HunyuanVideo 1.5 I2V": DeviceRun(
        folder=tiny_hunyuan15_i2v_folder, settings=_SAME_STEP, start=True
    ),
    "CogVideoX": DeviceRun(folder=tiny_cogvideox_folder, settings=_SAME_STEP),
    "CogVideoX, waves": DeviceRun(
        folder=partial(tiny_cogvideox_folder, rotary=False), settings=_QUEUE
    ),
    "CogVideoX I2V": DeviceRun(
        folder=tiny_cogvideox_i2v_folder, settings=_CLIP, start=True, latent_frames=13
    ),
    "CogVideoX 1.5": DeviceRun(folder=tiny_cogvideox15_folder, settings=_CLIP, latent_frames=5),
    "LTX-Video": DeviceRun(folder=tiny_ltx_folder, settings=_QUEUE, start=True),
    "LTX-Video 0.9.1": DeviceRun(
        folder=partial(tiny_ltx_folder, conditioned=True), settings=_SAME_STEP
    ),
    "LTX-Video 0.9.5": DeviceRun(folder=tiny_ltx_condition_folder, settings=_CLIP, latent_frames=5),
    "Kandinsky 5": DeviceRun(
        folder=partial(published_folder, "Kandinsky-5.0-T2V-Lite"), settings=_QUEUE
    ),
    "Kandinsky 5 I2V": DeviceRun(
        folder=partial(published_folder, "Kandinsky-5.0-I2V-Lite"), settings=_SAME_STEP, start=True
    ),
    "Mochi": DeviceRun(folder=tiny_mochi_folder, settings=_QUEUE),
    "Open-Sora-Plan": DeviceRun(folder=tiny_open_sora_plan_folder, settings=_SAME_STEP),
    "Open-Sora-Plan I2V": DeviceRun(
        folder=partial(tiny_open_sora_plan_folder, vae_scale_factor_t=4),
        settings=_QUEUE,
        start=True,
    ),
}
"""Every family, and of each what its pipelines and versions have of their own."""
METHODS: Final[dict[str, dict[str, Any]]] = {
    "Autoregressive": {"scheduler": Autoregressive(2), **_CAUSAL},
    "CascadeQueue": {"scheduler": CascadeQueue(2), **_CAUSAL},
    "RollingWindow": {
        "scheduler": RollingWindow(1),
        **_CAUSAL,
        "cache": RollingKV(6, 1, 7, moved_sinks=True),
        "timesteps_per": "frame",
    },
    "FrameQueue": {
        "scheduler": FrameQueue(2, 2),
        "cache": NoCache(),
        "sampler": EULER,
        "timesteps_per": "frame",
        "steps": 4,
    },
    "DiffusionForcing": {
        "scheduler": DiffusionForcing(),
        "cache": NoCache(),
        "timesteps_per": "frame",
    },
    "ContextWindows": {
        "scheduler": ContextWindows(4, 2),
        "cache": NoCache(),
        "noise": FreeNoise(4, 2),
    },
    "Extend": {
        "scheduler": Extend(4, 2, noised=0.1),
        "cache": NoCache(),
        "noise": Independent(),
        "timesteps_per": "frame",
    },
    "AnchorKV": {"scheduler": FifoQueue(2, 1), "cache": AnchorKV(SameStepKV(), 1)},
    "NextBlockKV": {
        "cache": NextBlockKV(),
        "vae_tile": 32,
        "sampler": "DPMSolverMultistepScheduler",
    },
}
"""Settings of every method, for Wan."""
RUNS: Final = FAMILIES | {
    name: DeviceRun(folder=tiny_wan_folder, settings=settings) for name, settings in METHODS.items()
}


def videos(
    name: str, scratch: Path, *devices: torch.device | str, dtype: str = "float32"
) -> list[tuple[Tensor, Tensor]]:
    """Make the video of a run on some devices, one after another.

    Args:
        name: One of ``RUNS``.
        scratch: An empty folder, for the model and the image.
        devices: Where.
        dtype: Of the weights.

    Returns:
        Of each, latents ``(1, C, F, H, W)`` and frames, on the CPU.
    """
    run = RUNS[name]
    folder = run.folder(scratch / "model")
    config = GenerationConfig(
        **{"pipeline": str(folder.path), "steps": 3, "dtype": dtype, **run.settings}
    )
    made = []
    for device in devices:
        engine = Engine(config, SingleDevice(), device=device)
        request = _request(run, engine, scratch)
        engine.check([request])
        latents, frames = [], []
        for event in engine.generate(request):
            if isinstance(event, BlockDone):
                assert event.latents.device.type == torch.device(device).type
                latents.append(event.latents.cpu())
            elif isinstance(event, FramesDecoded):
                frames.append(event.frames)
        made.append((torch.cat(latents, dim=2), torch.cat(frames)))
    return made


def _request(run: DeviceRun, engine: Engine, scratch: Path) -> Request:
    compression = engine.model.spec.compression
    height, width = HEIGHT * compression.spatial, WIDTH * compression.spatial
    prompts = (PromptAt(text="red shape"), PromptAt(text="a blue bird", at=0.8))
    return Request(
        prompts=prompts[: 1 + run.second_prompt],
        negative_prompt="slow",
        num_frames=compression.video_frames(run.latent_frames),
        height=height,
        width=width,
        start=str(_picture(scratch / "start.png", height, width)) if run.start else None,
    )


def _picture(file: Path, height: int, width: int) -> Path:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (height + 8, width, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(file)
    return file
