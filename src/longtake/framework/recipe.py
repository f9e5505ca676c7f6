"""What the user chooses about the model, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from longtake.caches import FeatureCache, NextBlockKV
from longtake.noise import NoiseInit, SharedPool
from longtake.schedulers import BlockScheduler, FifoQueue

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How videos are made.

    Args:
        pipeline: A bundled model's name (``demo``), a diffusers folder or a hub id.
        scheduler: What is denoised, in which order.
        noise: The starting noise of every block.
        cache: Which keys and values outlive a task.
        steps: Denoising steps of each block.
        guidance_scale: Of classifier-free guidance; 1 or less turns it off.
        guidance_scale_2: Of a second expert (Wan 2.2); ``None``: the same.
        sampler: A diffusers scheduler class; ``None``: the one that the model ships.
        flow_shift: Shift of the noise levels; ``None``: the model's own.
        dtype: Of the transformer's and the text encoder's weights.
        attention: diffusers' attention backend.
    """

    pipeline: str
    scheduler: BlockScheduler = field(default_factory=FifoQueue)
    noise: NoiseInit = field(default_factory=SharedPool)
    cache: FeatureCache = field(default_factory=NextBlockKV)
    steps: int = 50
    guidance_scale: float = 5.0
    guidance_scale_2: float | None = None
    sampler: str | None = None
    flow_shift: float | None = None
    dtype: Dtype = "bfloat16"
    attention: str = "native"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the weights."""
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[self.dtype]
