"""Surroundings that fail: disks, folders, streams; the run goes on afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtake.framework.exit_status import ExitStatus
from tests.faults.cases import Whole, content_of, left_in, options
from tests.faults.forked import Ended, Fault, run_forked
from tests.faults.test_signals import MIDST

ROOMY = "10m"


def struck(model: Path, out: Path, fault: Fault | None = None, **around: object) -> Ended:
    """Run the queue, and say what happens in it."""
    run = [*options(model, "queue", 1), "--output", str(out), "--resume", "auto"]
    run[run.index("none")] = "plain"
    return run_forked(run, out.with_suffix(".log"), 1, fault, **around)  # type: ignore[arg-type]


def goes_on(model: Path, out: Path, whole: Whole) -> None:
    """See that the run ends as if nothing had happened, and leaves nothing."""
    ended = struck(model, out)
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == whole.content
    assert not left_in(out)


def is_refused(ended: Ended, *words: str) -> None:
    """See that a run has ended with a sentence."""
    assert ended.statuses == (ExitStatus.MISTAKE,), ended.said
    assert "Traceback" not in ended.said
    assert all(word in ended.said for word in words), ended.said


@pytest.mark.parametrize(
    ("largest", "refused"),
    [(3_500, ".safetensors"), (10_000, "video")],
)
def test_a_file_that_cannot_be_written_ends_a_run_that_goes_on(
    largest: int, refused: str, model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    is_refused(struck(model, out, largest=largest), "Cannot write", refused, "File too large")
    goes_on(model, out, whole["queue"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of its own, which is small."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes rights that are not here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("size", ["60k", "140k"])
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(
    size: str, model: Path, whole: dict[str, Whole], disk: Path
) -> None:
    out = disk / "out"
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
    is_refused(struck(model, out), "No space left on device")
    subprocess.run(["mount", "-o", f"remount,size={ROOMY}", str(disk)], check=True)
    goes_on(model, out, whole["queue"])


@pytest.mark.parametrize("what", ["request", "video"])
def test_what_is_removed_in_the_midst_is_made_anew(
    what: str, model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    path = {
        "request": out / "0000",
        "video": out / "0000" / "video.mp4",
    }[what]

    def remove() -> None:
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    ended = struck(model, out, Fault(0.0, said=MIDST, deed=remove))
    assert ended.struck
    assert "Traceback" not in ended.said
    assert ended.statuses == (ExitStatus.MISTAKE,), ended.said
    goes_on(model, out, whole["queue"])


def set_read_only(folder: Path, is_so: bool) -> None:
    """Have a folder take no more files, or take them again; of root too, where the disk can."""
    if os.geteuid():
        folder.chmod(0o500 if is_so else 0o700)
    else:
        change = ["chattr", "+i" if is_so else "-i", str(folder)]
        subprocess.run(change, check=True, capture_output=True)


def test_a_folder_that_becomes_read_only_ends_a_run_that_goes_on(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    try:
        set_read_only(tmp_path, True)
        set_read_only(tmp_path, False)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("root may write everywhere on this disk")
    out = tmp_path / "out"
    folder = out / "0000" / "latents"
    try:
        ended = struck(model, out, Fault(0.0, said=MIDST, deed=lambda: set_read_only(folder, True)))
    finally:
        set_read_only(folder, False)
    is_refused(ended, "Cannot write")
    goes_on(model, out, whole["queue"])


def test_a_run_is_made_though_nobody_reads_what_it_says(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = struck(model, out, unheard=(1, 2))
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == whole["queue"].content
    assert not left_in(out)
