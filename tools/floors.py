"""The oldest versions that ``pyproject.toml`` allows, as requirements for pip, one a line.

``make test-floors`` installs exactly these: a floor is a promise like any other. Of the extras,
``test`` is included, what the tests need.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def direct_dependencies(pyproject: Path = PYPROJECT) -> list[Requirement]:
    """Return what the project and its tests ask for by name."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [Requirement(line) for line in lines]


def floor(requirement: Requirement) -> str:
    """Return the oldest version that a requirement allows.

    Raises:
        ValueError: It allows any.
    """
    oldest = [limit.version for limit in requirement.specifier if limit.operator == ">="]
    if len(oldest) != 1:
        raise ValueError(f"{requirement} has no floor: write {requirement.name}>=VERSION.")
    return oldest[0]


if __name__ == "__main__":
    for dependency in direct_dependencies():
        print(f"{dependency.name}=={floor(dependency)}")
