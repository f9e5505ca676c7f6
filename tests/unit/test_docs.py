"""Pages about the code keep up with it: indexes of files and benchmarks, links, first lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

import file_index

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "benchmarks/README.md",
)
WIDTH: Final = 100
NO_NOUN: Final = (
    *("what", "how", "which", "whether", "who", "whose", "where", "when", "why", "everything"),
    *("all", "every", "each", "one", "no", "our", "own", "this", "that", "it"),
)
"""First words of a docstring that nobody searches for, articles left out."""
VERB: Final = re.compile(
    r"(reads|writes|draws|starts|makes|prints|decodes|encodes|tells|gives|proves|measures)\b"
)


def docstring_of(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize(
    "path", file_index.modules(), ids=lambda path: str(path.relative_to(file_index.PACKAGE))
)
def test_a_modules_first_line_begins_with_a_noun(path: Path) -> None:
    line, *rest = docstring_of(path).split("\n")
    assert line.endswith("."), "the first line is a whole sentence"
    assert not rest or not rest[0], "an empty line follows"
    assert len(path.read_text(encoding="utf-8").split("\n", 1)[0]) <= WIDTH
    words = re.sub(r"^(the|a|an) ", "", line.lower())
    first = re.split(r"[^\w-]", words.lstrip("`"), maxsplit=1)[0]
    assert first not in NO_NOUN
    assert not VERB.match(words)


def test_the_index_of_files_is_that_of_the_tree() -> None:
    page = file_index.PAGE.read_text(encoding="utf-8")
    assert file_index.replaced(page) == page, "python tools/file_index.py --write"
    assert page.count("](../src/longtake/models/ltx/backbone.py) | LTX-Video backbone") == 1


def test_the_index_of_benchmarks_names_every_script() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert len(rows) == len(set(rows))
    assert set(rows) == scripts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text)
    missing = [link for link in linked if not (page.parent / link).exists()]
    named = re.findall(
        r"\b(?:src/longtake|tests|tools|examples|configs|docs)/[\w./-]+\.(?:py|md|yaml)\b", text
    )
    named += re.findall(r"python (benchmarks/\w+\.py)", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_targets_of_make_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):(?!=)", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, page.name


def test_every_file_that_the_makefile_and_ci_name_exists() -> None:
    for script in ("Makefile", ".ci/run"):
        text = (ROOT / script).read_text(encoding="utf-8")
        named = re.findall(r"\b(?:tests|tools|configs)/[\w/.-]+\.\w+", text)
        assert named
        assert not [name for name in named if not (ROOT / name).exists()]
