"""Prints the README's table of models: the lines of each adapter, as ``wc -l`` counts them.

``python tools/adapter_table.py`` prints it; ``--write`` puts it into the README, between the two
comments that name this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import marked_part
from longtake.framework.console.models_report import cards
from longtake.models import ModelCard, registered

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
STARTS = {"none": "no", "optional": "yes", "always": "always"}


def lines_of(adapter: Path) -> int:
    """Return the lines of a file."""
    return adapter.read_bytes().count(b"\n")


def adapters() -> dict[str, int]:
    """Return the lines of every adapter by the folder of its family."""
    files = sorted((ROOT / "src" / "longtake" / "models").glob("*/backbone.py"))
    return {file.parent.name: lines_of(file) for file in files}


def folder_of(card: ModelCard) -> str | None:
    """Return the folder of a card's family; ``None`` for a plug-in's."""
    module = registered()[card.pipeline].__module__
    package = "longtake.models."
    return module.removeprefix(package).split(".")[0] if module.startswith(package) else None


def table() -> str:
    """Return the table in Markdown."""
    counts = adapters()
    return "".join(f"{line}\n" for line in [*_head(), *_rows(counts), "", _summary(counts), ""])


def replaced(readme: str) -> str:
    """Return the README's text with the table as it is now."""
    return marked_part.replaced(readme, "tools/adapter_table.py", table())


def _head() -> list[str]:
    return [
        "",
        "| model | pipeline | licence | image or video start | timestep per | VAE decoded "
        "| adapter, lines |",
        "|---|---|---|---|---|---|---|",
    ]


def _rows(counts: dict[str, int]) -> Iterator[str]:
    shown: set[str] = set()
    for card in cards():
        folder = folder_of(card)
        if folder is None:
            continue
        lines = "same" if folder in shown else f"[{counts[folder]}]({_path(folder)})"
        shown.add(folder)
        start = STARTS[card.start or "none"]
        yield (
            f"| {card.model} | `{card.pipeline}` | {card.licence} | {start} | {card.timestep} "
            f"| {card.decoder} | {lines} |"
        )


def _path(folder: str) -> str:
    return f"src/longtake/models/{folder}/backbone.py"


def _summary(counts: dict[str, int]) -> str:
    return f"The median adapter has {median(counts.values()):g} lines (counted by a test)."


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the README")
    if parser.parse_args().write:
        README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
