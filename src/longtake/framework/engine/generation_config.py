"""GenerationConfig: what the user chooses about the model, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from longtake.caches import FeatureCache, NextBlockKV
from longtake.errors import ConfigurationError
from longtake.models import Lora, ModelFamily, SamplerChoice
from longtake.noise import NoiseInit, SharedPool
from longtake.schedulers import BlockScheduler, FifoQueue

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How videos are made.

    Args:
        pipeline: A bundled model's name (``demo``), a diffusers folder or a hub id.
        variant: Of the weight files (``fp16``); ``None``: the plain ones.
        revision: Branch, tag or commit of a hub id; ``None``: the newest.
        family: Knows the pipeline; ``None``: the one that is registered for it.
        scheduler: What is denoised, in which order.
        noise: The starting noise of every block.
        cache: Which keys and values outlive a task.
        steps: Denoising steps of each block; ``None``: the model's own number.
        guidance_scale: Of classifier-free guidance; 1 or less turns it off. ``None``: the model's
            own.
        guidance_scale_2: Of a second expert (Wan 2.2); ``None``: the model's own, or the same as
            a ``guidance_scale`` that is given.
        sampler: A diffusers scheduler class, or what makes a sampler of one's own; ``None``: the
            scheduler that the model ships.
        flow_shift: Shift of the noise levels; ``None``: the model's own.
        dtype: Of the transformer's and the text encoder's weights.
        attention: diffusers' attention backend.
        loras: What is merged into the transformers' weights.
        vae_tile: Pixels along the sides of the VAE's tiles; ``None``: whole pictures.
        start_noise: Share of a block's noise that frames given by the request are seen with.

    Raises:
        ConfigurationError: ``start_noise`` is not between 0 and 1.
    """

    pipeline: str
    family: ModelFamily | None = None
    scheduler: BlockScheduler = field(default_factory=FifoQueue)
    noise: NoiseInit = field(default_factory=SharedPool)
    cache: FeatureCache = field(default_factory=NextBlockKV)
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    sampler: SamplerChoice = None
    flow_shift: float | None = None
    dtype: Dtype = "bfloat16"
    attention: str = "native"
    loras: tuple[Lora, ...] = ()
    vae_tile: int | None = None
    start_noise: float = 0.5
    variant: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_noise <= 1.0:
            raise ConfigurationError(
                f"model.start_noise is {self.start_noise:g}, but it is a share: choose 0 to 1."
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the weights."""
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[self.dtype]
