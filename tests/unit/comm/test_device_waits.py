"""No module waits for a whole device: on CUDA that includes transfers that have begun."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

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
