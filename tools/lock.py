"""Lock file with hashes, ``requirements.lock``: made by pip's own report, checked by a test.

    python tools/lock.py --write     # asks pip what it would install by constraints.txt
    python tools/lock.py --fits      # status 0 where the lock is for this machine

It names the files for Linux on x86-64 with CPython 3.11, as the tests have. Of PyTorch it names two
builds, of which a machine takes the one that its index offers: PyPI's, for CUDA, and the one for
CPUs (2.13.0+cpu) that the tests run with. What PyPI's needs of CUDA it pins itself, by version.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PINS: Final = ROOT / "constraints.txt"
LOCK: Final = ROOT / "requirements.lock"
MACHINE: Final = ("linux", "x86_64", "CPython", (3, 11))
BUILDS: Final = frozenset({"torch"})
"""What PyPI has another build of than this machine's index may have."""
_PYPI: Final = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
"""Variables with which pip asks PyPI alone."""
_HEAD: Final = """\
# Made by tools/lock.py from constraints.txt: Linux on x86-64, CPython 3.11; of torch two builds.
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


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return version and hashes of what the lock names."""
    found = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin, *digests = line.split(" --hash=")
            name, _, version = pin.partition("==")
            found[name.lower()] = (version, digests)
    return found


def report(names: Iterable[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """Ask pip what it would install here, and from which files.

    Args:
        names: Of packages.
        variables: Further environment variables.
    """
    wanted = [f"{name}=={version}" for name, version in pins().items() if name in names]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", "--report", "-", *wanted]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | dict(variables)
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(found: dict[str, Any], others: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the lock.

    Args:
        found: pip's report of this machine's index.
        others: And of PyPI, about what has several builds.
    """
    digests: dict[tuple[str, str], set[str]] = {}
    for one in [*found["install"], *others["install"]]:
        version = str(one["metadata"]["version"]).partition("+")[0]
        held = digests.setdefault((one["metadata"]["name"], version), set())
        held.add(one["download_info"]["archive_info"]["hashes"]["sha256"])
    for (name, version), held in sorted(digests.items(), key=lambda pair: pair[0][0].lower()):
        yield f"{name}=={version}{''.join(f' --hash=sha256:{one}' for one in sorted(held))}\n"


def main() -> int:
    """Write the lock, or say whether it fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write requirements.lock")
    parser.add_argument("--fits", action="store_true", help="status 0: for this machine")
    given = parser.parse_args()
    if given.fits:
        return 0 if fits() else 1
    text = _HEAD + "".join(lines(report(pins(), {}), report(BUILDS, _PYPI)))
    if given.write:
        LOCK.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
