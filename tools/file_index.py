"""Prints the index of files of ``docs/architecture.md``: each module with its first line.

``python tools/file_index.py`` prints it; ``--write`` puts it into the page, between the two
comments that name this file.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import marked_part

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "longtake"
PAGE = ROOT / "docs" / "architecture.md"


def modules() -> list[Path]:
    """Return every module of the package, folder by folder."""
    return sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.parent, path.name))


def first_line(module: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0].replace("``", "`")


def index() -> str:
    """Return the index in Markdown: a table per folder."""
    return "".join(f"{line}\n" for line in _lines())


def replaced(page: str) -> str:
    """Return the page's text with the index as it is now."""
    return marked_part.replaced(page, "tools/file_index.py", index())


def _lines() -> Iterator[str]:
    for folder, files in groupby(modules(), key=lambda path: path.parent):
        yield ""
        yield f"### `{folder.relative_to(PACKAGE.parent).as_posix()}/`"
        yield ""
        yield "| file | |"
        yield "|---|---|"
        for path in files:
            link = path.relative_to(ROOT).as_posix()
            yield f"| [`{path.name}`](../{link}) | {first_line(path)} |"
    yield ""


def main() -> None:
    """Print the index, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/architecture.md")
    if parser.parse_args().write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(index())


if __name__ == "__main__":
    main()
