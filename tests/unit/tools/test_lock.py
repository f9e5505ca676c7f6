"""The lock names what the constraints name, each by its hash."""

from __future__ import annotations

import re

import lock
from floors import direct_dependencies


def test_the_lock_and_the_constraints_name_the_same_versions() -> None:
    locked, pins = lock.locked(), lock.pins()
    versions = {name: version for name, (version, _) in locked.items()}
    assert versions == pins, "run python tools/lock.py --write"
    assert len(locked) > 50


def test_everything_in_the_lock_has_a_hash() -> None:
    for name, (_, digests) in lock.locked().items():
        assert len(digests) == 1 + (name in lock.BUILDS), name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests), name


def test_every_dependency_is_locked() -> None:
    names = {re.sub(r"[-_.]+", "-", name) for name in lock.locked()}
    for dependency in direct_dependencies():
        assert re.sub(r"[-_.]+", "-", dependency.name.lower()) in names


def test_the_lock_is_made_from_what_pip_reports() -> None:
    def one(name: str, version: str, digit: str) -> dict[str, object]:
        info = {"archive_info": {"hashes": {"sha256": digit * 64}}}
        return {"metadata": {"name": name, "version": version}, "download_info": info}

    here = [one("Zeta", "1.0", "0"), one("torch", "2.0+cpu", "2"), one("alpha", "1.0", "0")]
    found = list(lock.lines({"install": here}, {"install": [one("torch", "2.0", "1")]}))
    assert found == [
        f"alpha==1.0 --hash=sha256:{'0' * 64}\n",
        f"torch==2.0 --hash=sha256:{'1' * 64} --hash=sha256:{'2' * 64}\n",
        f"Zeta==1.0 --hash=sha256:{'0' * 64}\n",
    ]
