"""Lock file with hashes, ``requirements.lock``: made by pip's own report, checked by a test.

    python tools/lock.py --write     # asks pip what it would install by constraints.txt
    python tools/lock.py --fits      # status 0 where the lock is for this machine

It names the files for Linux on x86-64 with CPython 3.11, as the tests have. PyTorch is left out:
which build a machine needs (CPU, CUDA) is its own, and so are the hashes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PINS: Final = ROOT / "constraints.txt"
LOCK: Final = ROOT / "requirements.lock"
MACHINE: Final = ("linux", "x86_64", "CPython", (3, 11))
LEFT_OUT: Final = frozenset({"torch"})
_HEAD: Final = """\
# Made by tools/lock.py from constraints.txt: Linux on x86-64, CPython 3.11; without torch.
#   pip install --require-hashes --no-deps -r requirements.lock
"""


def fits() -> bool:
    """Return whether the lock names files for this machine."""
    here = (sys.platform, platform.machine(), platform.python_implementation())
    return (*here, sys.version_info[:2]) == MACHINE


def pins() -> dict[str, str]:
    """Return the versions of ``constraints.txt`` by name."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, _, version in pairs}


def locked() -> dict[str, tuple[str, str]]:
    """Return version and hash of what the lock names."""
    found = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin, _, digest = line.partition(" --hash=")
            name, _, version = pin.partition("==")
            found[name.lower()] = (version, digest)
    return found


def report() -> dict[str, Any]:
    """Ask pip what it would install here, and from which files."""
    names = [f"{name}=={version}" for name, version in pins().items() if name not in LEFT_OUT]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", "--report", "-", *names]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the lock.

    Args:
        found: pip's report.
    """
    for one in sorted(found["install"], key=lambda one: str(one["metadata"]["name"]).lower()):
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        if name.lower() not in LEFT_OUT:
            yield f"{name}=={version} --hash=sha256:{digest}\n"


def main() -> int:
    """Write the lock, or say whether it fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write requirements.lock")
    parser.add_argument("--fits", action="store_true", help="status 0: for this machine")
    given = parser.parse_args()
    if given.fits:
        return 0 if fits() else 1
    text = _HEAD + "".join(lines(report()))
    if given.write:
        LOCK.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
