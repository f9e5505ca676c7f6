"""Reports of replicas: what each has said counts before the run's report holds it, and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.framework.engine.keeper import touched_since
from longtake.framework.engine.kept_video import checksum_of, left_at
from longtake.framework.engine.replica_reports import fold, part_name, whole_report
from longtake.framework.engine.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of two replicas, each of which has finished a video and reported it."""
    folder = RunFolder(tmp_path)
    for replica in (0, 1):
        video = folder.path_of(replica) / "video.mp4"
        video.parent.mkdir()
        video.write_bytes(b"frames of replica %d" % replica)
        left = left_at(video, checksum_of([video]))
        said = {"index": replica, "exit_reason": "finished", "left": left}
        (tmp_path / part_name(replica)).write_text(json.dumps({"requests": [said]}))
    return folder


def test_a_changed_video_of_another_replica_is_noticed(folder: RunFolder) -> None:
    assert touched_since(folder, [0, 1]) == {}
    (folder.path_of(1) / "video.mp4").write_bytes(b"frames of somebody 1")
    touched = touched_since(folder, [0, 1])
    assert list(touched) == [1]
    assert touched[1].endswith("video.mp4 was changed since the run has finished it")
    fold(folder)
    assert folder.report_parts() == []
    assert touched_since(folder, [0, 1]) == touched


def test_a_report_that_was_cut_off_hides_no_other(folder: RunFolder) -> None:
    (folder.path / part_name(2)).write_text('{"requests": [')
    assert [one["index"] for one in whole_report(folder)["requests"]] == [0, 1]
