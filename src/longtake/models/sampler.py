"""The sampler: a diffusers scheduler, one copy of it per block."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, final

import diffusers
import torch
from torch import Tensor

from longtake.errors import ConfigurationError, LongtakeError, ModelError
from longtake.models.folder import ModelFolder
from longtake.models.registry import family_of

_GOOD = "UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler"
_SHIFTS = ("flow_shift", "shift")
"""What diffusers' schedulers call the shift of flow-matching noise levels."""


_FLOW_TOLERANCE = 0.05
"""Samplers that solve flows end within 0.001 of the clip, the others 0.7 or more away."""


@final
class Sampler:
    """The noise levels of a run, and the start of every block's own sampler state.

    Args:
        scheduler: A diffusers scheduler; never stepped itself, only copied.
        steps: Denoising steps, one forward each.
        sigmas: Noise levels of the steps before the shift; ``None``: the scheduler's own.

    Raises:
        ConfigurationError: ``steps`` is below 1, or the scheduler needs more than one forward
            per step or draws noise of its own.
    """

    def __init__(self, scheduler: Any, steps: int, sigmas: Sequence[float] | None = None) -> None:
        if steps < 1:
            raise ConfigurationError(f"model.steps is {steps}, but at least 1 step is needed.")
        name = type(scheduler).__name__
        scheduler = copy.deepcopy(scheduler)
        if sigmas is None or not _takes_sigmas(scheduler):
            scheduler.set_timesteps(steps, device="cpu")
        else:
            scheduler.set_timesteps(sigmas=list(sigmas), device="cpu")
        self.timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
        if len(self.timesteps) != steps:
            raise ConfigurationError(
                f"the sampler {name} runs the model {len(self.timesteps)} times for {steps} steps; "
                f"longtake needs one run per step: {_GOOD}."
            )
        try:
            scheduler.set_begin_index(0)
        except AttributeError as error:
            raise ConfigurationError(
                f"the sampler {name} cannot be told at which step it begins; choose {_GOOD}."
            ) from error
        first, second = _play(scheduler, seed=0), _play(scheduler, seed=1)
        if not torch.equal(first, second):
            raise ConfigurationError(
                f"the sampler {name} draws fresh noise in every step, which would make the video "
                f"depend on the order of execution; choose its deterministic variant."
            )
        self._scheduler = scheduler
        self.flow_error = float(first.abs().max())
        """How far the sampler ends from the clip on a straight flow, as a share of the noise."""

    def start(self) -> BlockSampler:
        """Return the sampler state of a block that enters."""
        return BlockSampler(copy.deepcopy(self._scheduler))


@final
class BlockSampler:
    """One block's sampler: its step count and whatever a multi-step solver remembers."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._steps_done = 0

    def step(self, prediction: Tensor, latents: Tensor) -> Tensor:
        """Take the next step, in fp32.

        Args:
            prediction: The model's output after guidance, ``(1, C, F, H, W)``.
            latents: ``(1, C, F, H, W)`` fp32; not changed (a multi-step solver keeps it).
        """
        timestep = self._scheduler.timesteps[self._steps_done]
        self._steps_done += 1
        (stepped, *_) = self._scheduler.step(
            prediction.float(), timestep, latents, return_dict=False
        )
        assert isinstance(stepped, Tensor)
        return stepped


def load_sampler(
    folder: ModelFolder, sampler: str | None, flow_shift: float | None, steps: int
) -> Sampler:
    """Build the sampler of a run, and refuse one that cannot solve this model.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class; ``None`` for the one that the model ships.
        flow_shift: Shift of the noise levels; ``None`` for the model's own.
        steps: Denoising steps.

    Raises:
        ConfigurationError: The sampler cannot be used; says which can.
        ModelError: The folder has no scheduler.
    """
    try:
        scheduler = load_scheduler(folder, sampler, flow_shift)
        built = Sampler(scheduler, steps, family_of(folder).sigmas(steps))
    except LongtakeError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # diffusers' own refusals
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the sampler {sampler or folder.class_name('scheduler')} cannot take {steps} steps "
            f"on this model ({reason}); choose {_GOOD}."
        ) from error
    if _is_flow(folder) and built.flow_error > _FLOW_TOLERANCE:
        raise ConfigurationError(
            f"the sampler {sampler or folder.class_name('scheduler')} does not solve flow models "
            f"such as this one (on a straight flow it misses the clip by {built.flow_error:.2f} of "
            f"the noise); choose {_GOOD}."
        )
    return built


def _takes_sigmas(scheduler: Any) -> bool:
    return "sigmas" in inspect.signature(scheduler.set_timesteps).parameters


def _is_flow(folder: ModelFolder) -> bool:
    config = folder.config("scheduler")
    return bool(config.get("use_flow_sigmas")) or "FlowMatch" in folder.class_name("scheduler")


def load_scheduler(folder: ModelFolder, sampler: str | None, flow_shift: float | None) -> Any:
    """Build the diffusers scheduler that a pipeline ships, or another one from its configuration.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class; ``None`` for the one that the model ships.
        flow_shift: Shift of the noise levels (Wan: 3 at 480p, 5 at 720p); ``None`` for the
            model's own.

    Raises:
        ConfigurationError: There is no such scheduler, or it has no such shift.
        ModelError: The folder has no scheduler.
    """
    if flow_shift is not None and flow_shift <= 0:
        raise ConfigurationError(f"model.flow_shift is {flow_shift:g}, but it must be above 0.")
    config = folder.config("scheduler")
    name = sampler or folder.class_name("scheduler")
    scheduler_class = getattr(diffusers, name, None)
    if not (inspect.isclass(scheduler_class) and issubclass(scheduler_class, _mixin())):
        error = ConfigurationError if sampler else ModelError
        raise error(
            f"the sampler {name} is no scheduler of diffusers {diffusers.__version__}; try {_GOOD}."
        )
    parameters = inspect.signature(scheduler_class).parameters
    shift = flow_shift if flow_shift is not None else _first(config, _SHIFTS)
    overrides: dict[str, object] = {}
    if shift is not None:
        overrides = {key: shift for key in _SHIFTS if key in parameters}
        if not overrides and flow_shift is not None:
            raise ConfigurationError(f"model.flow_shift is {shift}, but {name} has no such shift.")
    if name != folder.class_name("scheduler") and "use_flow_sigmas" in parameters:
        # A flow model stays a flow model under another solver.
        overrides |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return scheduler_class.from_config(config, **overrides)  # type: ignore[attr-defined]


def _play(scheduler: Any, seed: int) -> Tensor:
    """Take all steps from noise 1 to clip 0 on a straight flow, under a global seed.

    The result is 0 for a sampler that solves flows, and does not depend on the seed for one that
    draws no noise.
    """
    state = BlockSampler(copy.deepcopy(scheduler))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        latents = torch.ones(1, 1, 1, 1, 1)
        for _ in scheduler.timesteps:
            latents = state.step(torch.ones_like(latents), latents)
    return latents.nan_to_num()


def _mixin() -> type:
    return diffusers.SchedulerMixin  # type: ignore[no-any-return]


def _first(config: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((float(config[key]) for key in keys if key in config), None)
