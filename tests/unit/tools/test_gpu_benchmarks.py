"""The GPU benchmarks: each works in small on a CPU, and claims nothing there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SLOW = ("verdict.py", "ends.py")
"""No script of its own; runs of the whole command, which tests/cli has."""
SCRIPTS = sorted(
    path.name for path in (ROOT / "benchmarks" / "gpu").glob("*.py") if path.name not in SLOW
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_works_in_small_and_claims_nothing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu" / name), "--tiny"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing may be claimed" in done.stdout
    assert "\n| --- |" in done.stdout
