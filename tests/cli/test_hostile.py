"""Hostile input: a short seeded part of ``tools/fuzz.py``, in forked children and for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = "120"
"""Seconds per input: tests run beside one another on few cores, so a hang is all that is told."""


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--count", "50"), ("--count", "3", "--real")])
def test_each_input_ends_with_a_sentence(options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "tools/fuzz.py", "--patience", PATIENCE, *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "refused" in done.stdout
