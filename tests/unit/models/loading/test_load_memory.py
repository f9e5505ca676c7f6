"""Loading holds no tensor twice: the process's own memory while it reads, sampled."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from longtake.models import Placement, family_of, open_folder
from longtake.testing.tiny.base import tiny_wan_folder, tiny_wan_transformer

LAYERS, INNER = 10, 40_000


def own_bytes() -> int:
    """Return this process's resident bytes but for files that are mapped."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def sampled() -> Iterator[list[int]]:
    """Give the largest growth so far, as the only entry of a list."""
    before, most, done = own_bytes(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.0005):
            most[0] = max(most[0], own_bytes() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], own_bytes() - before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide")
    tiny_wan_folder(path)
    tiny_wan_transformer(num_layers=LAYERS, ffn_dim=INNER).save_pretrained(path / "transformer")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_peak_is_the_weights_and_little_more(folder: Path, dtype: torch.dtype) -> None:
    opened = open_folder(str(folder))
    family = family_of(opened)
    spec, place = family.spec(opened), Placement(torch.device("cpu"), dtype)
    gc.collect()
    with sampled() as most:
        backbone = family.load_backbone(opened, spec, range(LAYERS), place)
    assert backbone.spec == spec
    largest = INNER * spec.model_dim * 4  # as it is stored
    size = 2 * LAYERS * INNER * spec.model_dim * dtype.itemsize
    assert size > 9 * largest
    assert most[0] <= size + 4 * largest
