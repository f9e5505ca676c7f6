"""Calibration report: this machine's profile, printed and written to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch

from longtake.errors import ConfigurationError
from longtake.framework.engine.calibration import calibrate
from longtake.framework.engine.run_folder import replacing
from longtake.plan.cost.calibrated import calibration_text


def save_calibration(path: Path, device: Literal["auto", "cpu", "cuda"]) -> None:
    """Measure this machine, and write what was found.

    Args:
        path: Of the file.
        device: What to measure.

    Raises:
        ConfigurationError: There is no such device, or the file cannot be written.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ConfigurationError("--device is cuda, but this machine has no GPU; cpu is possible.")
    kind = "cuda" if there and device != "cpu" else "cpu"
    text = calibration_text(*calibrate(torch.device(kind)))
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--output is {path}, which cannot be written: {error}") from error
    sys.stdout.write(text)
    sys.stderr.write(f"longtake: longtake plan --profile {path} plans for this machine\n")
