"""No module waits for a whole device: on CUDA that includes transfers that have begun."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
import torch

from longtake.comm.device_queue import HostCopies, mark, settle

PACKAGE: Final = Path(__file__).parents[3] / "src" / "longtake"
REFUSED: Final = {"synchronize", "empty_cache", "ipc_collect"}
"""Of ``torch.cuda`` and its like. What waits for less has names of its own in
:mod:`longtake.comm.device_queue`."""


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if "cuda_rules" not in path.parts],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_no_module_waits_for_a_device(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        if node.attr in REFUSED
    ]  # fmt: skip
    assert not found


def test_on_a_cpu_nothing_is_queued() -> None:
    assert mark(torch.device("cpu"))()
    settle(torch.device("cpu"))


def test_copies_on_a_cpu_are_copies() -> None:
    copies, source = HostCopies(torch.device("cpu")), torch.arange(3.0)
    target = copies.buffer(source)
    assert copies.begin(source, target)()
    assert torch.equal(source, target)
    assert target.data_ptr() != source.data_ptr()


def test_what_is_brought_to_a_cpu_is_there() -> None:
    source = torch.arange(3.0)
    assert HostCopies(torch.device("cpu")).bring(source)() is source


class Recorded:
    """A device's module as ``torch.cuda`` is one; notes who waits for whom, and for how long."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.looks = 0
        self._current = "compute"

    def Stream(self, device: torch.device) -> Any:
        note = self.log.append
        return mock.Mock(wait_stream=lambda other: note(f"copies wait for {other}"))

    def current_stream(self, device: torch.device) -> str:
        return self._current

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self._current = self._current, "copies"
        yield
        self._current = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    def Event(self) -> Any:
        return mock.Mock(
            record=lambda stream: self.log.append(f"mark on {stream}"), query=self.look
        )

    def look(self) -> bool:
        self.looks += 1
        return self.looks > 3


def test_what_is_brought_from_a_device_is_copied_behind_its_computing_and_waited_for_alone() -> (
    None
):
    module, source = Recorded(), torch.arange(3.0)
    held, like = weakref.ref(source), source.clone()
    pinned = mock.patch.object(HostCopies, "buffer", lambda self, like: torch.zeros_like(like))
    with mock.patch.object(torch, "get_device_module", return_value=module), pinned:
        brought = HostCopies(torch.device("cuda")).bring(source)
        del source
        assert module.log == ["copies wait for compute", "mark on copies"]
        assert module.looks == 0, "nobody has waited yet"
        assert held() is not None, "its memory must not be used again before it is copied"
        copy = brought()
    assert module.looks == 4
    assert torch.equal(copy, like)
    del brought
    assert held() is None
