"""Options of a diffusers scheduler, by name: which there are, and of which type each is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeAlias, Union, final, get_args, get_origin

from longtake.errors import ConfigurationError, nearest

OptionValue: TypeAlias = bool | int | float | str | None

SHIFTS: Final = ("flow_shift", "shift")
"""What diffusers' schedulers call the shift of flow-matching noise levels."""
_ETA: Final = "eta"
"""The one option that diffusers' schedulers take at each step."""
_OF_THE_MODEL: Final = {
    *("num_train_timesteps", "prediction_type", "use_flow_sigmas", "invert_sigmas"),
    *("use_dynamic_shifting", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("snr_shift_scale", "rescale_betas_zero_snr"),
}
"""Settings that a model was trained with."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersScheduler:
    """A diffusers scheduler with options of its own.

    Args:
        scheduler: Name of its class; left out: the one that the model ships.
        options: Of its class, by name, such as ``{stochastic_sampling: true}``; and ``eta``, for a
            scheduler of DDIM's kind.
    """

    scheduler: str | None = None
    options: dict[str, OptionValue] = field(default_factory=dict)

    def named(self, shipped: str) -> str:
        """Return its name with its options, for people to read.

        Args:
            shipped: The scheduler that the model ships.
        """
        given = ",".join(f"{name}={str(value).lower()}" for name, value in self.options.items())
        return (self.scheduler or shipped) + (f"({given})" if given else "")

    @property
    def eta(self) -> float | None:
        """Share of fresh noise in a step; ``None``: not given."""
        value = self.options.get(_ETA)
        return None if value is None else float(value)

    def init_options(self, scheduler_class: type) -> dict[str, OptionValue]:
        """Return the options for the scheduler's construction.

        Args:
            scheduler_class: The class that it names.

        Raises:
            ConfigurationError: It has no such option, the option is of another type, or it is the
                model's to set; names the nearest one.
        """
        name = scheduler_class.__name__
        known = _options_of(scheduler_class)
        for option, value in self.options.items():
            if option in SHIFTS:
                raise ConfigurationError(
                    f"model.sampler sets {option} to {value}; give it as model.flow_shift."
                )
            if option in _OF_THE_MODEL:
                raise ConfigurationError(
                    f"model.sampler sets {option} to {value}, but that is how the model was "
                    f"trained; leave it out."
                )
            if option not in known:
                raise ConfigurationError(
                    f"the sampler {name} has no option {option}; the nearest is "
                    f"{nearest(option, known)}."
                )
            if not _fits(value, known[option]):
                raise ConfigurationError(
                    f"the option {option} of the sampler {name} is {value!r}, but it must be "
                    f"{_words(known[option])}."
                )
        return {option: value for option, value in self.options.items() if option != _ETA}


def _options_of(scheduler_class: Any) -> Mapping[str, Any]:
    """Return the types of all options that a user may set, by name."""
    given = inspect.signature(scheduler_class.__init__).parameters
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    fixed = {"self", *SHIFTS, *_OF_THE_MODEL}
    known = {
        name: type(parameter.default)
        if parameter.annotation is parameter.empty
        else parameter.annotation
        for name, parameter in given.items()
        if parameter.kind is keyword and name not in fixed
    }
    if _ETA in inspect.signature(scheduler_class.step).parameters:
        known[_ETA] = float
    return known


def _fits(value: OptionValue, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is None or hint is NoneType:
        return value is None
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return hint in (int, str) and isinstance(value, hint)


def _words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in get_args(hint)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(hint, "null" if hint in (None, NoneType) else "left out")
