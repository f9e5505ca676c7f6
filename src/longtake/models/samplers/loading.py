"""Loading of a run's sampler: the model's own, another one by its name, or one of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import diffusers

from longtake.errors import ConfigurationError, LongtakeError, ModelError
from longtake.models.loading.folder import ModelFolder
from longtake.models.registry import ModelFamily, family_of
from longtake.models.samplers.base import Sampler, SamplerChoice, SamplerSettings
from longtake.models.samplers.diffusers_sampler import DiffusersSampler
from longtake.models.samplers.scheduler_checks import flow_error, good_samplers, same_levels
from longtake.models.samplers.scheduler_options import SHIFTS, DiffusersScheduler
from longtake.models.samplers.shift import shift_of
from longtake.models.samplers.timesteps import check_taken, check_timesteps, levels_before_shift

_FLOW_TOLERANCE: Final = 0.05
"""Samplers that solve flows end within 0.001 of the clip, the others 0.7 or more away."""


def load_sampler(
    folder: ModelFolder,
    sampler: SamplerChoice,
    flow_shift: float | None,
    steps: int,
    tokens: int | None = None,
    family: ModelFamily | None = None,
    timesteps: Sequence[float] | None = None,
) -> Sampler:
    """Build the sampler of a run, and refuse one that cannot solve this model.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class, also with options; what makes a sampler of
            the settings; or ``None`` for the scheduler that the model ships.
        flow_shift: Shift of the noise levels; ``None`` for the model's own.
        steps: Denoising steps.
        tokens: Video tokens of a clip, for a model whose shift depends on them.
        family: Knows the folder; ``None``: the one that is registered for it.
        timesteps: Of the steps, before the shift; ``None``: the model's or the scheduler's own.

    Raises:
        ConfigurationError: The sampler cannot be used; says which can.
        ModelError: The folder has no scheduler.
    """
    if timesteps is not None:
        check_timesteps(timesteps, steps)
    if steps < 1:
        raise ConfigurationError(f"model.steps is {steps}, but at least 1 step is needed.")
    config, flow = folder.config("scheduler"), _is_flow(folder)
    total = SamplerSettings(steps=steps, config=config).train_timesteps
    if steps > total:
        raise ConfigurationError(
            f"model.steps is {str(steps)[:40]}, but the model was trained with {total} noise "
            f"levels, so it takes no more steps than that."
        )
    if timesteps is None:
        sigmas = (family or family_of(folder)).sigmas(steps)
    else:
        sigmas = list(levels_before_shift(timesteps, total, flow))
    settings = SamplerSettings(
        steps=steps,
        shift=_shift(config, flow_shift, tokens),
        sigmas=None if sigmas is None else tuple(sigmas),
        scheduler=folder.class_name("scheduler"),
        config=config,
        flow=flow,
    )
    choice = by_name(sampler)
    if choice is not None:
        built: Sampler = _named(folder, choice, flow_shift, tokens, settings)
    else:
        assert callable(sampler)
        built = _own(sampler, settings)
    name = sampler_name(folder, sampler, built)
    if timesteps is not None:
        check_taken(built, name, settings, "FlowMatchEulerDiscreteScheduler")
    if settings.flow and (error := flow_error(built, settings)) > _FLOW_TOLERANCE:
        raise ConfigurationError(
            f"the sampler {name} does not solve flow models such as this one (on a straight flow "
            f"it misses the clip by {error:.2f} of the noise); choose {good_samplers(config)}."
        )
    return built


def by_name(sampler: SamplerChoice) -> DiffusersScheduler | None:
    """Return the diffusers scheduler of a choice; ``None`` where it is a sampler of one's own."""
    if sampler is None or isinstance(sampler, str):
        return DiffusersScheduler(scheduler=sampler)
    return sampler if isinstance(sampler, DiffusersScheduler) else None


def sampler_name(folder: ModelFolder, sampler: SamplerChoice, built: Sampler) -> str:
    """Return a sampler's name, for people to read.

    Args:
        folder: The pipeline folder.
        sampler: As for ``load_sampler``.
        built: What that returned.
    """
    choice = by_name(sampler)
    return type(built).__name__ if choice is None else choice.named(folder.class_name("scheduler"))


def _own(make: Callable[[SamplerSettings], Sampler], settings: SamplerSettings) -> Sampler:
    """Build a sampler of the user's own."""
    built = make(settings)
    name = type(built).__name__
    if not isinstance(built, Sampler):
        raise ConfigurationError(
            f"model.sampler makes a {name}, which is no sampler: give a diffusers scheduler's "
            f"name, or the class_path of a subclass of longtake.models.Sampler."
        )
    if len(built.timesteps) != settings.steps:
        raise ConfigurationError(
            f"the sampler {name} has {len(built.timesteps)} timesteps for {settings.steps} steps; "
            f"longtake needs one per step: one forward each."
        )
    return built


def _named(
    folder: ModelFolder,
    choice: DiffusersScheduler,
    flow_shift: float | None,
    tokens: int | None,
    settings: SamplerSettings,
) -> DiffusersSampler:
    """Build diffusers' scheduler of a name."""
    good = good_samplers(settings.config)
    try:
        scheduler = load_scheduler(folder, choice, flow_shift, tokens)
        built = DiffusersSampler(scheduler, settings.steps, settings.sigmas, choice.eta)
    except LongtakeError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # diffusers' own refusals
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the sampler {choice.named(settings.scheduler)} cannot take {settings.steps} steps "
            f"on this model ({reason}); choose {good}."
        ) from error
    if settings.flow or choice.scheduler is None:
        return built
    if not same_levels(scheduler, load_scheduler(folder, None, None)):
        raise ConfigurationError(
            f"the sampler {choice.scheduler} has other noise levels than the {settings.scheduler} "
            f"that this model was made for; choose {good}."
        )
    return built


def _is_flow(folder: ModelFolder) -> bool:
    config = folder.config("scheduler")
    return bool(config.get("use_flow_sigmas")) or "FlowMatch" in folder.class_name("scheduler")


def load_scheduler(
    folder: ModelFolder,
    sampler: str | DiffusersScheduler | None,
    flow_shift: float | None,
    tokens: int | None = None,
) -> Any:
    """Build the diffusers scheduler that a pipeline ships, or another one from its configuration.

    Args:
        folder: The pipeline folder.
        sampler: Name of a diffusers scheduler class, also with options; ``None`` for the one that
            the model ships.
        flow_shift: Shift of the noise levels (Wan: 3 at 480p, 5 at 720p); ``None`` for the
            model's own.
        tokens: Video tokens of a clip, for a model whose shift depends on them.

    Raises:
        ConfigurationError: There is no such scheduler, or it has no such shift or option.
        ModelError: The folder has no scheduler.
    """
    if flow_shift is not None and flow_shift <= 0:
        raise ConfigurationError(f"model.flow_shift is {flow_shift:g}, but it must be above 0.")
    config, choice = folder.config("scheduler"), by_name(sampler)
    assert choice is not None
    name = choice.scheduler or folder.class_name("scheduler")
    scheduler_class = getattr(diffusers, name, None)
    if not (inspect.isclass(scheduler_class) and issubclass(scheduler_class, _mixin())):
        error = ConfigurationError if choice.scheduler else ModelError
        raise error(
            f"the sampler {name} is no scheduler of diffusers {diffusers.__version__}; try "
            f"{good_samplers(config)}."
        )
    parameters = inspect.signature(scheduler_class).parameters
    shift = _shift(config, flow_shift, tokens)
    if config.get("use_dynamic_shifting"):
        config = config | {"use_dynamic_shifting": False}  # by how much is known now
    overrides: dict[str, object] = {}
    if shift is not None:
        overrides = {key: shift for key in SHIFTS if key in parameters}
        if not overrides and flow_shift is not None:
            raise ConfigurationError(f"model.flow_shift is {shift}, but {name} has no such shift.")
    flow = _is_flow(folder)
    if flow and name != folder.class_name("scheduler") and "use_flow_sigmas" in parameters:
        # A flow model stays a flow model under another solver.
        overrides |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    overrides |= choice.init_options(scheduler_class)
    return scheduler_class.from_config(config, **overrides)  # type: ignore[attr-defined]


def applied_shift(
    folder: ModelFolder, sampler: SamplerChoice, flow_shift: float | None, tokens: int | None
) -> float | None:
    """Return the shift of a run's noise levels, for people to read.

    Args:
        folder: The pipeline folder.
        sampler: As for ``load_sampler``.
        flow_shift: As for ``load_sampler``.
        tokens: As for ``load_sampler``.

    Returns:
        ``None`` for a scheduler that has no shift.
    """
    choice = by_name(sampler)
    if choice is None:
        return _shift(folder.config("scheduler"), flow_shift, tokens)
    scheduler_class = getattr(diffusers, choice.scheduler or folder.class_name("scheduler"))
    parameters = inspect.signature(scheduler_class).parameters
    name = next((key for key in SHIFTS if key in parameters), None)
    if name is None:
        return None
    shift = _shift(folder.config("scheduler"), flow_shift, tokens)
    return float(parameters[name].default if shift is None else shift)


def _shift(config: dict[str, Any], flow_shift: float | None, tokens: int | None) -> float | None:
    return flow_shift or shift_of(config, tokens) or _first(config, SHIFTS)


def _mixin() -> type:
    return diffusers.SchedulerMixin  # type: ignore[no-any-return]


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    return next((float(config[key]) for key in keys if key in config), None)
