"""Verification of a model on its real weights: two steps here and in diffusers' own pipeline."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import diffusers
import torch
from torch import Tensor

from longtake.caches import NoCache
from longtake.errors import ConfigurationError
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.generation_config import Dtype, GenerationConfig
from longtake.framework.engine.request import PromptAt, Request
from longtake.models import load_scheduler
from longtake.models.loading.guard import reading
from longtake.models.loading.tokenizers import load_tokenizer
from longtake.noise import NoiseSource
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, SingleDevice

STEPS: Final = 2
LATENT_FRAMES: Final = 3
PROMPT: Final = "a golden fox jumps over the sea at night"
NEGATIVE: Final = "blurry"
LIMITS: Final[Mapping[Dtype, float]] = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Largest difference that counts as equal, of the largest latent. In float32 it is 1e-5 on small
random weights; in 16 bits each layer rounds, and what sums in another order rounds otherwise."""

Form: TypeAlias = Callable[[Tensor], Tensor]


def _plain(latents: Tensor) -> Tensor:
    return latents


def _frames_first(latents: Tensor) -> Tensor:
    return latents.transpose(1, 2)


def _tokens(latents: Tensor) -> Tensor:
    return latents.flatten(2).transpose(1, 2)


_FORMS: Final[Mapping[str, Form]] = {
    "WanPipeline": _plain,
    "SkyReelsV2Pipeline": _plain,
    "HunyuanVideoPipeline": _plain,
    "HunyuanVideo15Pipeline": _plain,
    "MochiPipeline": _plain,
    "CogVideoXPipeline": _frames_first,
    "LTXPipeline": _tokens,
}
"""How a pipeline lays its latents ``(1, C, F, H, W)`` out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far two steps here are from two steps of the model's own pipeline.

    Args:
        model: As it was named.
        revision: The commit of a hub model.
        pipeline: diffusers' class.
        dtype: Of the weights.
        device: Where it was computed.
        size: Video frames, height, width.
        difference: Largest one, relative to the largest latent.
        limit: Up to which it counts as equal.
    """

    model: str
    revision: str | None
    pipeline: str
    dtype: Dtype
    device: str
    size: tuple[int, int, int]
    difference: float
    limit: float

    @property
    def equal(self) -> bool:
        """Whether the two are equal but for rounding."""
        return self.difference <= self.limit  # and not NaN


def verify(pipeline: str, dtype: Dtype, device: torch.device, height: int, width: int) -> Verdict:
    """Denoise a short clip for two steps in diffusers' pipeline and here, from the same noise.

    The one is freed before the other is loaded.

    Args:
        pipeline: A diffusers folder or a hub id.
        dtype: Of the weights.
        device: Where both compute.
        height: In pixels.
        width: In pixels.

    Raises:
        LongtakeError: The model cannot be run, or its pipeline cannot be compared.
    """
    config = GenerationConfig(
        pipeline, scheduler=FullSequence(), cache=NoCache(), steps=STEPS, dtype=dtype
    )
    engine = Engine(config, SingleDevice(), device=device)
    kind, compression = engine.model.folder.pipeline, engine.model.spec.compression
    if kind not in _FORMS:
        raise ConfigurationError(
            f"{pipeline} is a {kind}, which verify cannot compare: it knows {', '.join(_FORMS)}."
        )
    request = Request(
        prompts=(PromptAt(text=PROMPT),),
        negative_prompt=NEGATIVE,
        num_frames=compression.video_frames(LATENT_FRAMES),
        height=height,
        width=width,
        fps=engine.model.defaults.fps,
    )
    engine.check([request])
    noise = _noise(engine, request)
    expected = _by_diffusers(engine, request, noise)
    events = engine.generate(request)
    found = next(event.latents for event in events if isinstance(event, BlockDone)).cpu().float()
    apart = (found - expected).abs().max() / expected.abs().max()
    return Verdict(
        model=pipeline,
        revision=engine.model.folder.revision,
        pipeline=kind,
        dtype=dtype,
        device=str(device),
        size=(request.num_frames or 0, height, width),
        difference=float(apart),
        limit=LIMITS[dtype],
    )


def _noise(engine: Engine, request: Request) -> Tensor:
    """Return the noise that the engine starts from."""
    spec, config = engine.model.spec, engine.model.generation_config
    source = NoiseSource(
        seed=request.seed,
        channels=spec.channels,
        height=request.height // spec.compression.spatial,
        width=request.width // spec.compression.spatial,
    )
    return torch.cat(
        list(config.noise.blocks(source, config.scheduler.blocks(LATENT_FRAMES))), dim=2
    )


@torch.no_grad()
def _by_diffusers(engine: Engine, request: Request, noise: Tensor) -> Tensor:
    """Return the latents ``(1, C, F, H, W)`` that the model's own pipeline makes, on the CPU."""
    model, place = engine.model, engine.model.place
    folder, form = model.folder, _FORMS[model.folder.pipeline]
    parts: dict[str, Any] = {}
    if folder.pipeline == "HunyuanVideoPipeline":
        # The class that its index names drops the spaces of prompts (transformers 5).
        parts["tokenizer"] = load_tokenizer(folder, "tokenizer")
    with reading(f"the pipeline in {folder.path}, as diffusers reads it,"):
        made = getattr(diffusers, folder.pipeline).from_pretrained(
            folder.path, dtype=place.dtype, local_files_only=True, **parts
        )
    # The noise levels are a setting, not what is verified.
    made.scheduler = load_scheduler(folder, None, model.settings.flow_shift)
    made.set_progress_bar_config(disable=True)
    if place.device.type == "cuda":
        made.enable_model_cpu_offload(device=place.device)
    asked = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "height": request.height,
        "width": request.width,
        "num_frames": request.num_frames,
        "num_inference_steps": STEPS,
        "guidance_scale": model.settings.guidance_scale,
        "guidance_scale_2": model.settings.guidance_scale_2,
        "latents": form(noise).to(place.device),
        "output_type": "latent",
    }
    takes = inspect.signature(made.__call__).parameters
    given = {name: value for name, value in asked.items() if name in takes and value is not None}
    latents: Tensor = made(**given).frames.cpu().float()
    del made
    gc.collect()
    if form is _tokens:
        return latents.transpose(1, 2).reshape(noise.shape)
    return form(latents)
