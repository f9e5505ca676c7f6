"""Calibrated hardware: a machine's own profile, as ``longtake calibrate`` writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from longtake.errors import ConfigurationError
from longtake.plan.devices import Hardware

NUMBERS: Final = (
    "convolution",
    "bandwidth",
    "latency",
    "launch",
    "memory",
    "hiding",
    "memory_bandwidth",
    "node_bandwidth",
    "node_latency",
    "call",
    "unfolding",
    "half_channels",
    "decoder_passes",
)
"""Of every dtype."""
OF_DTYPES: Final = ("matmul", "attention", "half_rate", "score", "passes")
"""By dtype."""


def calibration_text(device: str, facts: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    """Return the file of a machine.

    Args:
        device: Shown in plans.
        facts: When and with what it was measured; ``cpu``: whether that was a CPU.
        numbers: ``NUMBERS``, and ``OF_DTYPES`` by the dtype's name, each as (value, source).
    """
    content = {"name": device, "measured": dict(facts), "numbers": numbers}
    head = "# This machine, for longtake plan --profile FILE: [number, measured or estimate].\n"
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def read_calibration(path: Path, dtype: torch.dtype) -> Hardware:
    """Read a machine's profile.

    Args:
        path: Of the file.
        dtype: Of the hidden states.

    Raises:
        ConfigurationError: The file is none, or lacks a number.
    """
    kind = str(dtype).removeprefix("torch.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        numbers: dict[str, Any]
        numbers = {name: float(content["numbers"][name][0]) for name in NUMBERS}
        numbers |= {name: float(content["numbers"][name][kind][0]) for name in OF_DTYPES}
        name, cpu = str(content["name"]), bool(content["measured"]["cpu"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the profile {path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigurationError(
            f"the profile {path} is no file of longtake calibrate, or of an earlier version, which "
            f"has to be measured anew: {error} is missing or no number."
        ) from error
    wrong = [name for name, value in numbers.items() if not value >= 0 or math.isnan(value)]
    if wrong:
        raise ConfigurationError(f"the profile {path} has {wrong[0]} {numbers[wrong[0]]:g}.")
    return Hardware(name=name, cpu=cpu, **numbers)
