"""Sampler: a diffusers scheduler, one copy of it per block."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

import diffusers
import numpy as np
import torch
from torch import Tensor

from longtake.errors import ConfigurationError, LongtakeError, ModelError
from longtake.models.loading.folder import ModelFolder
from longtake.models.registry import ModelFamily, family_of
from longtake.models.samplers.scheduler_checks import extra_inputs, same_levels, scales
from longtake.models.samplers.shift import shift_of

_GOOD = "UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler"
_GOOD_FOR_V = "CogVideoXDDIMScheduler"
"""For models of v-prediction, such as CogVideoX."""
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
            per step, draws noise of its own, or wants anything scaled or kept for it.
    """

    def __init__(self, scheduler: Any, steps: int, sigmas: Sequence[float] | None = None) -> None:
        if steps < 1:
            raise ConfigurationError(f"model.steps is {steps}, but at least 1 step is needed.")
        name, good = type(scheduler).__name__, _good(scheduler.config)
        if extra := extra_inputs(scheduler):
            raise ConfigurationError(
                f"the sampler {name} wants more for a step than a prediction, a timestep and "
                f"latents ({', '.join(extra)}), and longtake keeps nothing else; choose {good}."
            )
        scheduler = copy.deepcopy(scheduler)
        if sigmas is None or not _takes_sigmas(scheduler):
            scheduler.set_timesteps(steps, device="cpu")
        else:
            scheduler.set_timesteps(sigmas=np.array(sigmas), device="cpu")  # UniPC takes no list
        self.timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
        if len(self.timesteps) != steps:
            raise ConfigurationError(
                f"the sampler {name} runs the model {len(self.timesteps)} times for {steps} steps; "
                f"longtake needs one run per step: {good}."
            )
        try:
            scheduler.set_begin_index(0)
        except AttributeError as error:
            if not _predicts_v(scheduler.config):  # DDIM for these goes by the timestep alone
                raise ConfigurationError(
                    f"the sampler {name} cannot be told at which step it begins; choose {good}."
                ) from error
        first, second = _play(scheduler, seed=0), _play(scheduler, seed=1)
        if not torch.equal(first, second):
            raise ConfigurationError(
                f"the sampler {name} draws fresh noise in every step, which would make the video "
                f"depend on the order of execution; choose its deterministic variant."
            )
        if scales(scheduler):
            raise ConfigurationError(
                f"the sampler {name} scales its noise or the latents that the model sees, which "
                f"longtake does not; choose {good}."
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

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return clean latents at the noise level that the next step starts from.

        Args:
            clean: ``(1, C, F, H, W)`` fp32; returned as they are after the last step.
            noise: Of the same shape, as a block starts from.
        """
        if self._steps_done == len(self._scheduler.timesteps):
            return clean
        if self._scheduler.config.get("invert_sigmas"):  # its levels say how much is clean (Mochi)
            clean, noise = noise, clean
        timestep = self._scheduler.timesteps[self._steps_done][None]
        try:
            noised = self._scheduler.scale_noise(clean, timestep, noise)
        except AttributeError:  # what most call add_noise has this name in some flow schedulers
            noised = self._scheduler.add_noise(clean, noise, timestep)
        assert isinstance(noised, Tensor)
        return noised


def load_sampler(
    folder: ModelFolder,
    sampler: str | None,
    flow_shift: float | None,
    steps: int,
    tokens: int | None = None,
    family: ModelFamily | None = None,
) -> Sampler:
    """Build the sampler of a run, and refuse one that cannot solve this model.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class; ``None`` for the one that the model ships.
        flow_shift: Shift of the noise levels; ``None`` for the model's own.
        steps: Denoising steps.
        tokens: Video tokens of a clip, for a model whose shift depends on them.
        family: Knows the folder; ``None``: the one that is registered for it.

    Raises:
        ConfigurationError: The sampler cannot be used; says which can.
        ModelError: The folder has no scheduler.
    """
    shipped, good = folder.class_name("scheduler"), _good(folder.config("scheduler"))
    try:
        scheduler = load_scheduler(folder, sampler, flow_shift, tokens)
        built = Sampler(scheduler, steps, (family or family_of(folder)).sigmas(steps))
    except LongtakeError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # diffusers' own refusals
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the sampler {sampler or shipped} cannot take {steps} steps "
            f"on this model ({reason}); choose {good}."
        ) from error
    if _is_flow(folder):
        if built.flow_error > _FLOW_TOLERANCE:
            raise ConfigurationError(
                f"the sampler {sampler or shipped} does not solve flow models "
                f"such as this one (on a straight flow it misses the clip by "
                f"{built.flow_error:.2f} of the noise); choose {good}."
            )
    elif sampler and not same_levels(scheduler, load_scheduler(folder, None, None)):
        raise ConfigurationError(
            f"the sampler {sampler} has other noise levels than the {shipped} that this model "
            f"was made for; choose {good}."
        )
    return built


def _takes_sigmas(scheduler: Any) -> bool:
    return "sigmas" in inspect.signature(scheduler.set_timesteps).parameters


def _predicts_v(config: Mapping[str, Any]) -> bool:
    return config.get("prediction_type") == "v_prediction"


def _good(config: Mapping[str, Any]) -> str:
    """Return samplers to choose, for the end of a refusal."""
    return _GOOD_FOR_V if _predicts_v(config) else _GOOD


def _is_flow(folder: ModelFolder) -> bool:
    config = folder.config("scheduler")
    return bool(config.get("use_flow_sigmas")) or "FlowMatch" in folder.class_name("scheduler")


def load_scheduler(
    folder: ModelFolder, sampler: str | None, flow_shift: float | None, tokens: int | None = None
) -> Any:
    """Build the diffusers scheduler that a pipeline ships, or another one from its configuration.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class; ``None`` for the one that the model ships.
        flow_shift: Shift of the noise levels (Wan: 3 at 480p, 5 at 720p); ``None`` for the
            model's own.
        tokens: Video tokens of a clip, for a model whose shift depends on them.

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
            f"the sampler {name} is no scheduler of diffusers {diffusers.__version__}; try "
            f"{_good(config)}."
        )
    parameters = inspect.signature(scheduler_class).parameters
    shift = _shift(config, flow_shift, tokens)
    if config.get("use_dynamic_shifting"):
        config = config | {"use_dynamic_shifting": False}  # by how much is known now
    overrides: dict[str, object] = {}
    if shift is not None:
        overrides = {key: shift for key in _SHIFTS if key in parameters}
        if not overrides and flow_shift is not None:
            raise ConfigurationError(f"model.flow_shift is {shift}, but {name} has no such shift.")
    flow = _is_flow(folder)
    if flow and name != folder.class_name("scheduler") and "use_flow_sigmas" in parameters:
        # A flow model stays a flow model under another solver.
        overrides |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return scheduler_class.from_config(config, **overrides)  # type: ignore[attr-defined]


def applied_shift(
    folder: ModelFolder, sampler: str | None, flow_shift: float | None, tokens: int | None
) -> float | None:
    """Return the shift of the noise levels that ``load_scheduler`` gives, for people to read.

    Args:
        folder: The pipeline folder.
        sampler: As for ``load_scheduler``.
        flow_shift: As for ``load_scheduler``.
        tokens: As for ``load_scheduler``.

    Returns:
        ``None`` for a scheduler that has no shift.
    """
    scheduler_class = getattr(diffusers, sampler or folder.class_name("scheduler"))
    parameters = inspect.signature(scheduler_class).parameters
    name = next((key for key in _SHIFTS if key in parameters), None)
    if name is None:
        return None
    shift = _shift(folder.config("scheduler"), flow_shift, tokens)
    return float(parameters[name].default if shift is None else shift)


def _shift(config: dict[str, Any], flow_shift: float | None, tokens: int | None) -> float | None:
    return flow_shift or shift_of(config, tokens) or _first(config, _SHIFTS)


def _play(scheduler: Any, seed: int) -> Tensor:
    """Take all steps from noise 1 to clip 0 on a straight flow, under a global seed.

    The result is 0 for a sampler that solves flows, and does not depend on the seed for one that
    draws no noise.
    """
    state = BlockSampler(copy.deepcopy(scheduler))
    # With inverted levels (Mochi) the model says which way the clip is, not the noise.
    velocity = -1.0 if scheduler.config.get("invert_sigmas") else 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        latents = torch.ones(1, 1, 1, 1, 1)
        for _ in scheduler.timesteps:
            latents = state.step(torch.full_like(latents, velocity), latents)
    return latents.nan_to_num()


def _mixin() -> type:
    return diffusers.SchedulerMixin  # type: ignore[no-any-return]


def _first(config: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((float(config[key]) for key in keys if key in config), None)
