"""Model and settings of a run, as reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from longtake.framework.engine.request import Request
from longtake.framework.engine.run_plan import RunPlan
from longtake.models.licence import licence_of

Applied: TypeAlias = Mapping[str, int | float | str | None]
"""Value by name."""


def model_of(plan: RunPlan) -> Applied:
    """Return which model a run uses, and under which licence."""
    return {
        "model": plan.generation_config.pipeline,
        "pipeline": plan.folder.pipeline,
        "revision": plan.folder.revision,
        "variant": plan.generation_config.variant,
        "weights": plan.generation_config.weights,
        "licence": licence_of(plan.folder, plan.card),
    }


def settings_of(plan: RunPlan, request: Request) -> Applied:
    """Return what a request is made with, the model's own settings among it.

    Args:
        plan: The run's.
        request: One that has been checked.
    """
    settings = plan.settings
    told = plan.sampler_of(request).timesteps
    levels = ",".join(f"{timestep:.6g}" for timestep in told)  # after the shift
    return {
        "steps": settings.steps,
        **({} if plan.generation_config.timesteps is None else {"timesteps": levels}),
        "guidance_scale": settings.guidance_scale,
        "guidance_scale_2": settings.guidance_scale_2,
        "sampler": plan.sampler_name_of(request),
        "flow_shift": plan.flow_shift_of(request),
        "num_frames": request.num_frames,
        "height": request.height,
        "width": request.width,
        "fps": request.fps,
    }
