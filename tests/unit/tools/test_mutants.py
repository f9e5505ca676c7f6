"""Mutation testing: the interval, the sample, and which tests a fault is shown to."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="an environment from before: make install")
pytest.importorskip("coverage", reason="an environment from before: make install")

from mutants import fitting, wilson
from mutation.faults import Fault, sample
from mutation.tests_map import TestsMap

SOURCE = """\
from __future__ import annotations

SHARE = 0.5


def area(width: int | None, *, height: int = 2) -> int:
    if width is None:
        return 0
    return (
        width
        * height
    )


class Box:
    side: int = 3

    def double(self) -> int:
        return self.side * 2
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    file = tmp_path / "src" / "longtake" / "plan" / "area.py"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE)
    return tmp_path


def test_the_interval_of_a_share() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20 with its upper end 0.1611.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_seed_gives_the_same_faults_and_each_changes_the_program(root: Path) -> None:
    faults = sample(root, 100, seed=0)
    assert faults == sample(root, 100, seed=0)
    assert faults != sample(root, 100, seed=1)
    assert sample(root, 3, seed=0) == faults[:3]
    changed = [fault.apply(SOURCE) for fault in faults]
    assert len(set(changed)) == len(changed)
    for text in changed:
        different = [
            a for a, b in zip(SOURCE.splitlines(), text.splitlines(), strict=True) if a != b
        ]
        assert len(different) == 1, "one line"


def test_nothing_is_set_where_nothing_is_evaluated(root: Path) -> None:
    # One place on each: a constant, a default, a condition, a result, a product, a field,
    # and two in the last line. None in an annotation, none at the bare star.
    lines = sorted(fault.line for fault in sample(root, 100, seed=0))
    assert set(lines) == {3, 6, 7, 8, 11, 16, 19}


def test_a_fault_is_shown_to_the_tests_that_run_its_line() -> None:
    file = Path("src/longtake/plan/area.py")
    lines = {
        3: {("t.py", "")},
        6: {("t.py", "")},
        7: {("t.py", "a"), ("t.py", "slow")},
        10: {("t.py", "a")},
        19: {("u.py", "")},
    }
    seconds = {("t.py", "slow"): 9.0, ("t.py", "a"): 1.0, ("t.py", "b"): 0.1, ("u.py", "c"): 2.0}
    known = TestsMap(lines={str(file): lines}, seconds=seconds)
    assert known.tests_of(file, 7, SOURCE) == [("t.py", "a"), ("t.py", "slow")]
    # Line 11 belongs to the statement that begins in line 9.
    assert known.tests_of(file, 11, SOURCE) == [("t.py", "a")]
    # Ranks and fixtures of a file are all its tests'.
    assert known.tests_of(file, 19, SOURCE) == [("u.py", "c")]
    # What an import runs is shown to all that run a function of the file.
    everybody = [("t.py", "a"), ("u.py", "c"), ("t.py", "slow")]
    assert known.tests_of(file, 3, SOURCE) == everybody
    assert known.tests_of(file, 6, SOURCE) == everybody
    assert known.tests_of(Path("src/longtake/plan/other.py"), 1, "x = 1\n") == []


def test_the_slowest_tests_are_left_out_of_a_limit() -> None:
    tests = [("t.py", name) for name in "abc"]
    seconds = dict(zip(tests, (1.0, 3.0, 4.0), strict=True))
    assert fitting(tests, seconds, 16.0) == tests
    assert fitting(tests, seconds, 8.0) == tests[:2]
    assert fitting(tests, seconds, 1.0) == tests[:1], "one in any case"


def test_a_fault_that_is_not_there_is_an_error() -> None:
    fault = Fault(file=Path("x.py"), line=1, operator="core/AddNot", occurrence=3)
    with pytest.raises(ValueError, match=r"x\.py has no core/AddNot number 3"):
        fault.apply("x = 1\n")
