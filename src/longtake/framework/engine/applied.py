"""Model and settings of a run, as reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from longtake.framework.engine.frame_rate import written
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models.licence import licence_of

Applied: TypeAlias = Mapping[str, int | float | str | None]
"""Value by name."""


def model_of(model: ResolvedModel) -> Applied:
    """Return which model a run uses, and under which licence."""
    return {
        "model": model.generation_config.pipeline,
        "pipeline": model.folder.pipeline,
        "revision": model.folder.revision,
        "variant": model.generation_config.variant,
        "weights": model.generation_config.weights,
        "weights_2": model.generation_config.weights_2,
        "licence": licence_of(model.folder, model.card),
    }


def settings_of(workloads: Workloads, request: Request) -> Applied:
    """Return what a request is made with, the model's own settings among it.

    Args:
        workloads: The run's.
        request: One that has been checked.
    """
    model = workloads.model
    settings, config = model.settings, model.generation_config
    told = workloads.sampler(request).timesteps
    levels = ",".join(f"{timestep:.6g}" for timestep in told)  # after the shift
    return {
        "steps": settings.steps,
        **({} if config.timesteps is None else {"timesteps": levels}),
        **({} if config.guidance is None else {"guidance": type(model.guidance).__name__}),
        "guidance_scale": settings.guidance_scale,
        "guidance_scale_2": settings.guidance_scale_2,
        "sampler": workloads.sampler_name(request),
        "flow_shift": workloads.flow_shift(request),
        "num_frames": request.num_frames,
        "height": request.height,
        "width": request.width,
        "fps": written(request.fps),
    }
