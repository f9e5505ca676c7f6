"""Numbers in a model folder's configuration files: what no model has is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from longtake.errors import ModelError

_COUNTED: Final = ("layers", "blocks", "layers_per_block", "heads", "groups")
"""How the settings end that say how many modules are built."""
_LAYERS: Final = 1_000
_LARGEST: Final = 2**40
_CHANNELS: Final = ("z_dim", "latent_channels")
"""What a VAE calls the channels of its latents."""


def refuse_numbers(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration by which a library builds without end, or computes nothing but NaN.

    Args:
        file: Where it stands.
        config: Its content.

    Raises:
        ModelError: Names the setting.
    """
    for key, value in settings_in(config):
        most = _LAYERS if key.endswith(_COUNTED) else _LARGEST
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > most:
                raise ModelError(
                    f"{file} sets {key} to {str(number)[:40]}, but no model has more than {most:,}."
                )
            if isinstance(number, float) and math.isnan(number):
                raise ModelError(f"{file} sets {key} to NaN, which is no number.")
    for key in ("latents_mean", "latents_std"):
        if isinstance(config.get(key), list):
            _check_scale(file, key, config[key], config)


def _check_scale(
    file: Path, key: str, numbers: Sequence[object], config: Mapping[str, Any]
) -> None:
    """Refuse a scale of latents that has not one number for each of their channels."""
    channels = next((config[name] for name in _CHANNELS if name in config), len(numbers))
    if len(numbers) != channels:
        raise ModelError(
            f"{file} has {len(numbers)} numbers in {key}, but latents of {str(channels)[:40]} "
            f"channels; it is one per channel."
        )
    for number in numbers:
        finite = isinstance(number, int | float) and math.isfinite(number)
        if not finite or (key == "latents_std" and number == 0):
            needed = "a finite number" + (" other than 0" if key == "latents_std" else "")
            raise ModelError(
                f"{file} has {str(number)[:40]} in {key}, but each of them is {needed}."
            )


def settings_in(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield a configuration's settings and those of the mappings in it."""
    open_ = [config]
    while open_:
        for key, value in open_.pop().items():
            yield str(key), value
            if isinstance(value, dict):
                open_.append(value)
