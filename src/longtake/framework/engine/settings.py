"""Settings of a run: what the user gave, and the model's own where nothing was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from longtake.framework.engine.generation_config import GenerationConfig
from longtake.models import Defaults

Setting: TypeAlias = int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A generation_config's numbers, none of them open.

    Args:
        steps: Denoising steps of each block.
        guidance_scale: Of classifier-free guidance, or embedded.
        guidance_scale_2: Of a second expert; ``None`` where the model has one expert.
        flow_shift: Shift of the noise levels that is asked of the scheduler; ``None``: its own.
    """

    steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float | None

    @classmethod
    def of(cls, generation_config: GenerationConfig, defaults: Defaults, experts: int) -> Settings:
        """Settle a generation_config.

        Args:
            generation_config: What the user gave.
            defaults: Of the model.
            experts: Sets of weights that the model has.
        """
        scale, second = generation_config.guidance_scale, generation_config.guidance_scale_2
        if second is None:  # whoever gives one scale means both
            second = defaults.guidance_scale_2 if scale is None else scale
        if scale is None:
            scale = defaults.guidance_scale
        return cls(
            steps=generation_config.steps_or(defaults.steps),
            guidance_scale=scale,
            guidance_scale_2=(scale if second is None else second) if experts > 1 else None,
            flow_shift=defaults.flow_shift
            if generation_config.flow_shift is None
            else generation_config.flow_shift,
        )
