"""Map from lines to the tests that run them: coverage's contexts, made once, kept in a cache."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from xml.etree import ElementTree

import pytest
from coverage import Coverage, CoverageData

from mutation import forked

TESTS: Final = ("tests/unit", "tests/distributed")
_CONFIG: Final = """\
[run]
source = {root}/src/longtake
parallel = true
data_file = {folder}/data
context = {context}
dynamic_context = test_function
concurrency = multiprocessing, thread
patch = subprocess, _exit
sigterm = true
"""
"""Ranks are measured as well: their lines are known by the test file, not by the test."""
_FORMAT: Final = 1
_PATIENCE: Final = 3600
"""Seconds for a test file."""

Test: TypeAlias = tuple[str, str]
"""A test file and a function of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsMap:
    """Which tests run which lines, and how long they take.

    Args:
        lines: By source file and line the tests, ``""`` for what a file's fixtures, imports or
            ranks run.
        seconds: Of every test, all its parameters together.
    """

    __test__ = False
    lines: dict[str, dict[int, set[Test]]]
    seconds: dict[Test, float]

    def tests_of(self, file: Path, line: int, source: str) -> list[Test]:
        """Return the tests that run a line, the fastest first.

        A line that is run on import, such as a default or a constant, is tested by those that run
        any function of its file, or import it if it has no function.

        Args:
            file: The source, relative to the checkout.
            line: From 1.
            source: Its text.
        """
        by_line = self.lines.get(str(file), {})
        span, in_function = _statement(source, line)
        found = _union(by_line, span)
        if not in_function:
            inside = [one for one in by_line if _statement(source, one)[1]]
            found = _union(by_line, inside) or _union(by_line, by_line)
        whole = {file for file, function in found if not function}
        tests = [test for test in self.seconds if test in found or test[0] in whole]
        return sorted(tests, key=lambda test: self.seconds[test])


def load(root: Path, cache: Path, files: Sequence[str], *, remake: bool) -> TestsMap:
    """Return the map of some test files; those that are not in the cache are run under coverage.

    Args:
        root: Of the checkout.
        cache: Folder of one JSON file per test file.
        files: Test files, relative to the checkout.
        remake: Whether a test file is run anew as soon as any source has changed; otherwise only
            when it has changed itself, and lines may be off by what sources have grown.
    """
    cache.mkdir(parents=True, exist_ok=True)
    made_from = {"format": _FORMAT, "sources": _digest(sorted((root / "src").rglob("*.py")))}
    lines: dict[str, dict[int, set[Test]]] = defaultdict(lambda: defaultdict(set))
    seconds: dict[Test, float] = {}
    old = 0
    for name in files:
        kept = cache / f"{name.replace('/', '_')}.json"
        state = made_from | {"test": _digest([root / name])}
        record = _recorded(kept, state, [*state] if remake else ["format", "test"])
        if record is None:
            record = _measured(root, cache, name) | state
            _write(kept, record)
        old += record["sources"] != state["sources"]
        seconds |= {(name, function): taken for function, taken in record["seconds"].items()}
        for source, functions in record["lines"].items():
            for function, numbers in functions.items():
                for number in numbers:
                    lines[source][number].add((name, function))
    if old:
        print(f"{old} test files were measured with other sources; --remake measures them anew")
    return TestsMap(lines=lines, seconds=seconds)


def test_files(root: Path) -> list[str]:
    """Return all test files whose tests may notice a fault, relative to the checkout."""
    return [
        str(file.relative_to(root))
        for folder in TESTS
        for file in sorted((root / folder).rglob("test_*.py"))
    ]


def _union(by_line: dict[int, set[Test]], lines: Iterable[int]) -> set[Test]:
    return {test for line in lines for test in by_line.get(line, ())}


def _statement(source: str, line: int) -> tuple[range, bool]:
    """Return the lines of the innermost statement at a line, and whether a function runs it."""
    found, inside = range(line, line + 1), False
    statements: list[ast.stmt] = ast.parse(source).body
    within = False
    while statements:
        here = [one for one in statements if _first(one) <= line <= (one.end_lineno or 0)]
        if not here:
            break
        (statement,) = here[:1]
        body = [one for one in ast.iter_child_nodes(statement) if isinstance(one, ast.stmt)]
        body += [
            one
            for part in ast.iter_child_nodes(statement)
            if isinstance(part, ast.ExceptHandler | ast.match_case)
            for one in part.body
        ]
        end = min((_first(one) for one in body), default=(statement.end_lineno or 0) + 1)
        found, inside = range(_first(statement), max(end, _first(statement) + 1)), within
        within |= isinstance(statement, ast.FunctionDef)
        statements = body if line >= end else []
    return found, inside


def _first(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(one.lineno for one in decorators)])


def _recorded(file: Path, state: dict[str, Any], keys: Sequence[str]) -> dict[str, Any] | None:
    """Return what was measured, where it was made from what is there now as far as keys go."""
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return record if all(record.get(key) == state[key] for key in keys) else None


def _measured(root: Path, cache: Path, name: str) -> dict[str, Any]:
    """Run a test file under coverage."""
    folder = cache / "running"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    (folder / "coverage.ini").write_text(_CONFIG.format(root=root, context=name, folder=folder))
    print(f"which lines {name} runs", flush=True)
    forked.run(_run, root, folder, name, limit=_PATIENCE)
    return {"seconds": _seconds(folder / "junit.xml"), "lines": _lines(root, folder)}


def _run(root: Path, folder: Path, name: str) -> int:
    measured = Coverage(config_file=str(folder / "coverage.ini"))
    options = ["-q", "-p", "no:cacheprovider", "--assert=plain"]
    options.append(f"--junit-xml={folder / 'junit.xml'}")
    with measured.collect():
        code = pytest.main([*options, f"--timeout={_PATIENCE}", name])
    measured.save()
    return int(code)


def _seconds(report: Path) -> dict[str, float]:
    """Return how long each function's tests took; those that failed have no say in faults."""
    seconds: dict[str, float] = defaultdict(float)
    failed = set()
    for case in ElementTree.parse(report).iter("testcase"):
        function = case.attrib["name"].split("[")[0]
        seconds[function] += float(case.attrib["time"])
        if any(part.tag in {"failure", "error"} for part in case):
            failed.add(function)
    if failed:
        print(f"  left out, as they fail without any fault: {', '.join(sorted(failed))}")
    return {function: taken for function, taken in seconds.items() if function not in failed}


def _lines(root: Path, folder: Path) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for file in folder.glob("data*"):
        data = CoverageData(str(file))
        data.read()
        for source in data.measured_files():
            for line, contexts in data.contexts_by_lineno(source).items():
                for context in contexts:
                    function = context.partition("|")[2].rpartition(".")[2]
                    found[str(Path(source).relative_to(root))][function].add(line)
    return {
        source: {function: sorted(lines) for function, lines in functions.items()}
        for source, functions in found.items()
    }


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _write(file: Path, record: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.replace(file)
