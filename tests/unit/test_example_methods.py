"""The examples of a schedule and a cache keep their contracts; the page shows them as they are."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import ClassVar

import pytest

from longtake.caches import FeatureCache, NoCache, forwards
from longtake.errors import ConfigurationError
from longtake.noise import Independent
from longtake.plan.check.methods import check_method
from longtake.schedulers import Autoregressive, BlockScheduler, FifoQueue
from longtake.strategies import Communicator, SingleDevice
from longtake.task import Video
from longtake.testing.contracts import BlockSchedulerContract, FeatureCacheContract
from longtake.testing.contracts.strategy_runs import run_requests
from longtake.testing.tiny.base import TinyCase
from own_cache import Thinned
from own_schedule import OneByOne

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "new-method.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class TestOneByOne(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return OneByOne(3, 2)


class TestThinned(FeatureCacheContract):
    schedules: ClassVar[dict[str, tuple[BlockScheduler, int, int]]] = {
        "blocks of 2": (Autoregressive(2), 19, 3),
        "blocks of 3": (Autoregressive(3), 31, 2),
        "one block": (Autoregressive(4), 3, 2),
    }

    def cache(self) -> FeatureCache:
        return Thinned(recent=5, far=2)


def test_the_cache_holds_the_last_frames_and_every_other_one_before() -> None:
    walk = list(forwards(Autoregressive(3).tasks(Video(24, 1)), Thinned(recent=4, far=2)))
    last = [read.entry.frame for read in walk[-1].window.reads]
    assert last == [14, 16, 17, 18, 19, 20]


@pytest.mark.parametrize(
    "case",
    [
        TinyCase(scheduler=OneByOne(3, 2), cache=NoCache()),
        TinyCase(scheduler=Autoregressive(2), cache=Thinned(3, 1), noise=Independent()),
    ],
    ids=["schedule", "cache"],
)
def test_an_example_makes_a_video(case: TinyCase) -> None:
    check_method(case.workload)
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [case])
    assert events


def test_a_cache_that_a_schedule_leaves_nothing_for_is_refused() -> None:
    case = TinyCase(scheduler=FifoQueue(3, 2), cache=Thinned())
    with pytest.raises(ConfigurationError, match=r"may see latent frames .* Thinned keeps nothing"):
        check_method(case.workload)


def test_the_page_shows_the_examples_as_they_are() -> None:
    for name, method in (("own_schedule", "tasks"), ("own_cache", "window")):
        code = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        begin = code.index(f"    def {method}(")
        shown = next(block for block in CODE if f"def {method}(" in block)
        own = shown[shown.index(f"    def {method}(") :].rstrip()
        assert code[begin:].startswith(own), f"{name}.{method}"


def test_the_page_steps_a_schedule_by_hand() -> None:
    code = next(block for block in CODE if "forwards(" in block)
    assert len(code.splitlines()) <= 15
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "new-method.md", "exec"), {})
    after = PAGE.split(code)[1]
    expected = re.findall(r"```text\n(.*?)```", after, re.DOTALL)[0]
    assert printed.getvalue() == expected
