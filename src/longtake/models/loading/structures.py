"""Structures of published models: what their configuration files say, without weights.

They are part of the package, so that a run can be planned where neither the model nor the hub can
be reached. Each file says where its numbers are from, and when they were read there; parts that
several models share (text encoders, VAEs) are in files of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "assets" / "structures"
_PARTS: Final = "parts"
"""The folder of shared parts; no hub id has this owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The configuration files of a published pipeline folder.

    Args:
        name: Hub id.
        files: Content by path inside the folder: ``transformer/config.json``, say.
        sources: Web addresses of what the content is from.
        date: Day on which they were read.
        doubt: What no source says, in a sentence; ``None``: the content is as the sources say.
    """

    name: str
    files: Mapping[str, Mapping[str, Any]]
    sources: tuple[str, ...]
    date: str
    doubt: str | None = None


def structured() -> list[str]:
    """Return the hub ids of all models whose structure is part of the package."""
    found = (
        file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/*.json")
    )
    return sorted(name for name in found if not name.startswith(f"{_PARTS}/"))


def structure_of(name: str) -> Structure | None:
    """Return the structure of a published model; ``None`` where the package has none.

    Args:
        name: Hub id.
    """
    if name not in structured():
        return None
    content = _read(name)
    parts = {part: _read(f"{_PARTS}/{shared}") for part, shared in content["parts"].items()}
    sources = [*content["sources"], *(url for part in parts.values() for url in part["sources"])]
    configs = {f"{part}/config.json": shared["config"] for part, shared in parts.items()}
    return Structure(
        name=name,
        files={**content["files"], **configs},
        sources=tuple(dict.fromkeys(sources)),
        date=max(content["date"], *(part["date"] for part in parts.values())),
        doubt=content.get("doubt"),
    )


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content
