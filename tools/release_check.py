"""Checks a release: one version everywhere, its notes, and the snapshot of the public API.

``python tools/release_check.py --tag v0.2.0`` needs nothing but Python; it prints what is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems(tag: str | None = None) -> list[str]:
    """Return what is wrong with a release, in sentences.

    Args:
        tag: Of the release, ``v`` and its version; ``None``: there is none yet.
    """
    project = tomllib.loads(_read("pyproject.toml"))["project"]["version"]
    said = {
        "src/longtake/__init__.py": _found(r'^__version__ = "(.+)"', "src/longtake/__init__.py"),
        "CITATION.cff": _found(r"^version: (.+)", "CITATION.cff"),
        "CHANGELOG.md": _found(r"^## \[(\d[^\]]*)\]", "CHANGELOG.md"),
        "docs/migrating.md": _found(r"^## (\d\S*)", "docs/migrating.md"),
    }
    wrong = [
        f"{file} has version {version}, pyproject.toml {project}."
        for file, version in said.items()
        if version != project
    ]
    return wrong if tag is None else [*wrong, *_of_tag(tag, project)]


def _of_tag(tag: str, version: str) -> list[str]:
    """Return what is wrong with what is tagged."""
    wrong = [] if tag == f"v{version}" else [f"the tag is {tag}, the version {version}."]
    snapshot = ROOT / "docs" / "api" / f"{version}.txt"
    now = _read("docs/api/signatures.txt")
    if not snapshot.exists() or snapshot.read_text(encoding="utf-8") != now:
        wrong.append(f"docs/api/{version}.txt is not docs/api/signatures.txt: copy it.")
    return wrong


def _read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def _found(pattern: str, file: str) -> str:
    found = re.search(pattern, _read(file), re.MULTILINE)
    return found[1] if found else "none"


def main() -> None:
    """Print what is wrong; the exit status is 1 where something is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", help="of the release: v and its version")
    wrong = problems(parser.parse_args().tag)
    print("\n".join(wrong) or "ready to be released")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
