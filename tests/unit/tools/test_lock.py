"""The lock names what the constraints name, each by its hash."""

from __future__ import annotations

import re

import lock
from floors import direct_dependencies


def test_the_lock_and_the_constraints_name_the_same_versions() -> None:
    locked, pins = lock.locked(), lock.pins()
    assert {name: version for name, (version, _) in locked.items()} == {
        name: version for name, version in pins.items() if name not in lock.LEFT_OUT
    }, "run python tools/lock.py --write"
    assert len(locked) > 50


def test_everything_in_the_lock_has_a_hash() -> None:
    for name, (_, digest) in lock.locked().items():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest), name


def test_every_dependency_is_locked() -> None:
    names = {re.sub(r"[-_.]+", "-", name) for name in lock.locked()} | lock.LEFT_OUT
    for dependency in direct_dependencies():
        assert re.sub(r"[-_.]+", "-", dependency.name.lower()) in names


def test_the_lock_is_made_from_what_pip_reports() -> None:
    def one(name: str) -> dict[str, object]:
        info = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
        return {"metadata": {"name": name, "version": "1.0"}, "download_info": info}

    found = list(lock.lines({"install": [one("Zeta"), one("torch"), one("alpha")]}))
    zeros = "0" * 64
    assert found == [f"{name}==1.0 --hash=sha256:{zeros}\n" for name in ("alpha", "Zeta")]
