"""Licence of a model's weights: from the folder's README, or as its card has it."""

from __future__ import annotations

import re

from longtake.models.card import ModelCard
from longtake.models.loading.folder import ModelFolder

_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_ENTRY = re.compile(r"""^(license(?:_name)?):\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", re.MULTILINE)


def licence_of(folder: ModelFolder, card: ModelCard) -> str | None:
    """Return the name of a folder's licence; ``None`` where nothing says it.

    Args:
        folder: The pipeline folder. The front matter of its ``README.md`` goes first:
            ``license``, or ``license_name`` where that is ``other``.
        card: Of the folder.
    """
    return _of_readme(folder) or card.licence


def _of_readme(folder: ModelFolder) -> str | None:
    try:
        text = (folder.path / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if (found := _FRONT_MATTER.match(text)) is None:
        return None
    entries = dict(_ENTRY.findall(found[1]))
    licence = entries.get("license")
    return entries.get("license_name", licence) if licence in (None, "other") else licence
