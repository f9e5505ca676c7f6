"""Prints ``docs/errors.md``: every class of errors, its code and what it says.

``python tools/error_codes.py`` prints the page; ``--write`` writes it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from longtake.errors import LongtakeError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "longtake"
PAGE = ROOT / "docs" / "errors.md"
_INTRODUCTION = """\
# Errors

<!-- Made by tools/error_codes.py from the classes' docstrings. -->

What cannot be done is said in one sentence: what was asked, the numbers, why it cannot be, and the
nearest choice that can. Behind it stands the code of its class, in brackets. A traceback is a fault
of longtake's own: please report it, with the command and the files. `LONGTAKE_TRACEBACK=1` prints
the way to any error, for those who write plug-ins.

| code | class | what it means |
|---|---|---|
"""


def classes() -> list[type[LongtakeError]]:
    """Return every class of errors in the package, the base first, by code."""
    for module in sorted(PACKAGE.rglob("*.py")):
        if any(map(_may_be_one, ast.parse(module.read_text(encoding="utf-8")).body)):
            path = module.relative_to(PACKAGE.parent).with_suffix("")
            import_module(".".join(path.parts).removesuffix(".__init__"))
    return sorted(_all(LongtakeError), key=lambda found: (found is not LongtakeError, found.code))


def page() -> str:
    """Return the page in Markdown."""
    return _INTRODUCTION + "".join(map(_row, classes()))


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/errors.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


def _may_be_one(statement: ast.stmt) -> bool:
    """Whether a statement makes a class whose base is called like an error of longtake's."""
    if not isinstance(statement, ast.ClassDef):
        return False
    names = {base.id for base in statement.bases if isinstance(base, ast.Name)}
    known = {found.__name__ for found in _all(LongtakeError)}
    return bool(names & known)


def _all(base: type[LongtakeError]) -> Iterator[type[LongtakeError]]:
    yield base
    for subclass in base.__subclasses__():
        if subclass.__module__.startswith("longtake."):
            yield from _all(subclass)


def _row(found: type[LongtakeError]) -> str:
    said = inspect.cleandoc(found.__doc__ or "").partition("\n\nAttributes:")[0]
    text = " ".join(said.split()).replace("``", "`")
    return f"| `{found.code}` | `{found.__name__}` | {text} |\n"


if __name__ == "__main__":
    main()
