"""Extended runs: a finished run grows, is killed at it, goes on, and grows again."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from longtake.framework.engine.journal import Journal
from longtake.framework.engine.run_folder import EXTENSIONS
from tests.cli.command import run_here
from tests.faults.cases import METHODS, Whole, content_of, devices, left_in, options
from tests.faults.forked import Ended, Fault, run_forked

LONGER, LONGEST = 65, 81


def extend(out: Path, frames: int, fault: Fault | None = None, ranks: int = 1) -> Ended:
    args = ["predict", "--extend", str(out), "--data.num_frames", str(frames), *devices(ranks)]
    return run_forked(args, out.with_suffix(".log"), ranks, fault)


def finished(whole: Whole, out: Path) -> Path:
    """Return a copy of a finished run."""
    return shutil.copytree(whole.out, out)


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def frames_in(video: Path) -> int:
    """Count the frames of a video, whose times must follow one another."""
    with av.open(str(video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    steps = {round(later - one, 6) for one, later in pairwise(times)}
    assert steps == {1 / 16}
    return len(times)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_grows_and_goes_on_when_killed_at_it(
    method: str, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, struck = finished(whole[method], tmp_path / "a"), finished(whole[method], tmp_path / "b")
    before = {path: path.read_bytes() for path in out.glob("*/video.mp4")}
    ended = extend(out, LONGER)
    assert ended.statuses == (0,), ended.said
    for path, content in before.items():
        assert path.read_bytes().startswith(content), "what was there is not what it was"
        assert frames_in(path) == LONGER
    grown = content_of(out)
    latents = {name: one for name, one in whole[method].content.items() if "latents" in name}
    assert latents.items() <= grown.items()
    assert report_of(out)["frames"] == 2 * LONGER
    assert report_of(out)["exit_reason"] == "finished"
    assert not left_in(out)
    blocks = [Journal(out / "0001").frames(block) for block in Journal(out / "0001").blocks()]
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == 17

    log = tmp_path / "log"
    for part in (0.5, 0.8):
        fault = Fault(part * ended.seconds)
        if (struck / EXTENSIONS).exists():
            done = run_forked(["predict", "--resume", str(struck)], log, 1, fault)
        else:  # not yet settled, or killed before it was
            done = extend(struck, LONGER, fault)
        assert done.statuses in ((-9,), (0,)), done.said
    if not (struck / EXTENSIONS).exists():
        assert extend(struck, LONGER).statuses == (0,)
    last = run_forked(["predict", "--resume", str(struck)], log)
    assert last.statuses == (0,), last.said
    assert content_of(struck) == grown
    assert not left_in(struck)


def test_a_run_grows_again(whole: dict[str, Whole], tmp_path: Path) -> None:
    out = finished(whole["queue"], tmp_path / "out")
    assert extend(out, LONGER).statuses == (0,)
    before = (out / "0000" / "video.mp4").read_bytes()
    ended = extend(out, LONGEST)
    assert ended.statuses == (0,), ended.said
    video = out / "0000" / "video.mp4"
    assert video.read_bytes().startswith(before)
    assert frames_in(video) == LONGEST
    assert [one["extended_at"] for one in report_of(out)["requests"]] == 2 * [[49, LONGER]]
    text = (out / "config.yaml").read_text()
    assert f"num_frames: {LONGEST}" in text
    assert "extended after 49, 65 video frames" in text


@pytest.mark.parametrize("method", ["queue", "causal"])
def test_with_a_kept_snapshot_it_grows_as_if_made_in_one_go(
    method: str, model: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    short = [*options(model, method, 1), "--keep_snapshots", "extend", "--snapshot_seconds", "1e6"]
    assert run_forked([*short, "--output", str(out)], tmp_path / "log").statuses == (0,)
    log = tmp_path / "log"
    longer = [*short, "--data.num_frames", str(LONGER), "--output", str(whole)]
    assert run_forked(longer, log).statuses == (0,)
    assert list(out.glob("0000/kept/*"))
    ended = extend(out, LONGER)
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == content_of(whole)
    assert not left_in(out)
    # Again, from the snapshot that it has kept meanwhile.
    longest = [*short, "--data.num_frames", str(LONGEST), "--output", str(tmp_path / "longest")]
    assert run_forked(longest, log).statuses == (0,)
    ended = extend(out, LONGEST)
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == content_of(tmp_path / "longest")


def test_several_ranks_make_a_run_grow_as_one_does(whole: dict[str, Whole], tmp_path: Path) -> None:
    one, two = finished(whole["queue"], tmp_path / "1"), finished(whole["queue"], tmp_path / "2")
    assert extend(one, LONGER).statuses == (0,)
    ended = extend(two, LONGER, ranks=2)
    assert set(ended.statuses) == {0}, ended.said
    assert content_of(two) == content_of(one)
    assert not left_in(two)


def test_a_folder_of_pictures_grows(model: Path, tmp_path: Path) -> None:
    short = [*options(model, "queue", 1), "--keep_snapshots", "extend", "--video.format", "png"]
    out, longer, log = tmp_path / "out", tmp_path / "longer", tmp_path / "log"
    assert run_forked([*short, "--output", str(out)], log).statuses == (0,)
    whole = run_forked([*short, "--data.num_frames", str(LONGER), "--output", str(longer)], log)
    assert whole.statuses == (0,), whole.said
    tail = shutil.copytree(out, tmp_path / "tail")
    before = content_of(out)
    for request in tail.glob("0*"):
        shutil.rmtree(request / "kept")
    picture = tail / "0001" / "frames" / "frame_000007.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:-1])
    refused = extend(tail, LONGER)
    assert "cannot grow: it is not the one of 49 video frames" in refused.said
    picture.write_bytes(content)

    struck = extend(out, LONGER, Fault(0.6 * whole.seconds, rank=0), ranks=2)
    if struck.struck and (out / EXTENSIONS).exists():
        ended = run_forked(["predict", "--resume", str(out)], log, 2)
    elif struck.struck:
        ended = extend(out, LONGER, ranks=2)
    else:
        ended = struck
    assert set(ended.statuses) == {0}, ended.said
    assert content_of(out) == content_of(longer)
    assert not left_in(out)

    ended = extend(tail, LONGER, ranks=2)
    assert set(ended.statuses) == {0}, ended.said
    assert "from its tail" in ended.said
    grown = content_of(tail)
    assert {name: one for name, one in grown.items() if name in before} == before
    assert len(list(tail.glob("0001/frames/*.png"))) == LONGER
    assert not left_in(tail)


def test_what_cannot_be_extended_is_refused(
    model: Path,
    whole: dict[str, Whole],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = finished(whole["queue"], tmp_path / "out")

    def refused(*args: str | Path) -> str:
        found = run_here(capsys, "predict", "--extend", out, *args)
        assert found.returncode == 2
        assert "Traceback" not in found.stderr
        return found.stderr

    frames = ("--data.num_frames", str(LONGER))
    content = content_of(out)
    assert f"--extend {out} needs the number of video frames" in refused()
    assert "49 video frames are there; the next longer video has 53" in refused(
        "--data.num_frames", "49"
    )
    assert "model.steps: 3 -> 4" in refused(*frames, "--model.steps", "4")
    assert "--resume goes on with a run" in refused(*frames, "--resume", out)
    video = out / "0000" / "video.mp4"
    kept = video.read_bytes()
    video.write_bytes(kept[:-1])
    assert "cannot grow: it is not the one of 49 video frames" in refused(*frames)
    video.write_bytes(kept)
    assert not (out / "extensions.json").exists()
    assert content_of(out) == content
    report = report_of(out)
    report["requests"][1]["exit_reason"] = "stopped"
    (out / "report.json").write_text(json.dumps(report))
    assert f"the run is not finished; --resume {out} goes on with it" in refused(*frames)
    report["requests"][1]["exit_reason"] = "finished"
    (out / "report.json").write_text(json.dumps(report))
    shutil.rmtree(out / "0001" / "latents")
    assert "kept no latents of the end of request 1" in refused(*frames)
