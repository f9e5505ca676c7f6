"""Runs of tests against a fault: in a copy of the checkout, with a limit, in forked processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, final

import pytest

from mutation import forked
from mutation.faults import Fault
from mutation.tests_map import Test


class Outcome(StrEnum):
    """What the tests made of a fault."""

    NOTICED = "noticed"
    """A test failed, or none could be collected."""
    TIMED_OUT = "timed out"
    """The tests did not end: a loop, or a rank that waits."""
    UNNOTICED = "unnoticed"
    """Every test passed."""
    UNTESTED = "untested"
    """No test runs the line."""


@final
class Copy:
    """A copy of the checkout that one fault after another is set into.

    Args:
        root: Of the checkout.
        folder: Where the copy is made; must not exist.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True)
        for name in filter(None, names.stdout.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        self._age = 0

    def test(self, fault: Fault, tests: Sequence[Test], limit: float) -> tuple[Outcome, str]:
        """Run tests with a fault set, until the first one fails.

        Args:
            fault: What is set, and taken back again.
            tests: In the order in which they are run.
            limit: Seconds after which they are ended.

        Returns:
            What they made of it, and the end of what pytest printed.
        """
        file = self.folder / fault.file
        right = file.read_text()
        self._write(file, fault.apply(right))
        try:
            return self.run(tests, limit)
        finally:
            self._write(file, right)

    def run(self, tests: Sequence[Test], limit: float) -> tuple[Outcome, str]:
        """Run tests in this copy as it is; see :meth:`test`."""
        code = forked.run(_run, self.folder, list(tests), limit=limit)
        said = forked.said_in(self.folder)
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise RuntimeError(f"the copy has none of the tests that the map names: {said}")
        if code is None:
            return Outcome.TIMED_OUT, said
        return Outcome.NOTICED if code else Outcome.UNNOTICED, said

    def _write(self, file: Path, text: str) -> None:
        """Write with a new age: compiled files are known by the second and the size of theirs."""
        self._age += 10
        file.write_text(text)
        os.utime(file, (self._age, self._age))


def _run(folder: Path, tests: list[Test]) -> int:
    files = list(dict.fromkeys(file for file, _ in tests))
    # Plain assertions: what is preloaded cannot be rewritten, of which pytest warns, an error here.
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--assert=plain"]
    return int(pytest.main([*options, *files], plugins=[_Chosen(folder, tests)]))


@final
class _Chosen:
    """Leaves some tests of those that were collected, in a given order."""

    def __init__(self, folder: Path, tests: Sequence[Test]) -> None:
        self._folder = folder
        self._places = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave the chosen tests."""
        chosen = [item for item in items if self._test(item) in self._places]
        items[:] = sorted(chosen, key=lambda item: self._places[self._test(item)])

    def _test(self, item: Any) -> Test:
        return str(item.path.relative_to(self._folder)), item.name.split("[")[0]
