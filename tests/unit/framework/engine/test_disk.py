"""Disk of a run: what it takes is foreseen, and what cannot fit is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from longtake.caches import SameStepKV
from longtake.errors import OutputError
from longtake.framework.engine.disk import check_disk, frame_bytes, snapshot_bytes
from longtake.strategies import Communicator, SingleDevice
from longtake.testing.resumption import run_cut
from longtake.testing.tiny.base import TinyCase

CASE = TinyCase(cache=SameStepKV(), latent_frames=17)
LAYOUT = SingleDevice().layout(1, CASE.workload)


def test_no_snapshot_is_larger_than_foreseen_and_the_largest_is_not_far_from_it() -> None:
    tasks = len(list(CASE.workload.tasks()))
    _, states = run_cut(Communicator.alone(), SingleDevice(), CASE, range(tasks))
    sizes = [sum(tensor.nbytes for tensor in state.tensors.values()) for state in states]
    foreseen = snapshot_bytes(CASE.workload, LAYOUT)
    assert foreseen / 2 < max(sizes) <= foreseen


def test_what_cannot_fit_is_refused_and_what_may_not_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))

    journal, snapshot = 17 * frame_bytes(CASE.workload), snapshot_bytes(CASE.workload, LAYOUT)
    folder, work = tmp_path / "deep" / "run", [CASE.workload] * 2
    free(2 * journal - 1)
    with pytest.raises(OutputError, match=rf"latents of finished.*all.*{tmp_path} has 0\.00 GB"):
        check_disk(folder, work, LAYOUT, "all")
    assert "may not fit" in (check_disk(folder, work, LAYOUT, "none") or "")
    free(journal + 3 * snapshot)
    assert check_disk(folder, work, LAYOUT, "none") is None
    assert "may not fit" in (check_disk(folder, work, LAYOUT, "none", "extend") or "")
    free(journal + 5 * snapshot)  # one of each request stays
    assert check_disk(folder, work, LAYOUT, "none", "extend") is None
    endless = [replace(CASE.workload, latent_frames=None)]
    free(3 * snapshot_bytes(endless[0], LAYOUT))
    assert check_disk(folder, endless, LAYOUT, "all") is None


@pytest.mark.parametrize("missing", [0, 1])
def test_a_run_that_goes_on_needs_what_it_has_not_written_yet(
    missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = 17 * frame_bytes(CASE.workload)
    free = journal + (journal - journal // 2) - missing
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    written, work = [journal, 0, journal // 2], [CASE.workload] * 3
    if not missing:
        assert "of snapshots" in (check_disk(tmp_path, work, LAYOUT, "all", written=written) or "")
        return
    with pytest.raises(OutputError, match=r"the run in .* more for the latents of .* make room"):
        check_disk(tmp_path, work, LAYOUT, "all", written=written)
