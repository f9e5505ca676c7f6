"""The run folder: what it refuses, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from longtake.errors import OutputError
from longtake.framework.engine.run_folder import CONFIG_HEADER, RunFolder, replacing


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.write_text("config.yaml", f"{CONFIG_HEADER} 0\nmodel: x\n")
    folder.write_json("report.json", {"frames": 1})
    request = folder.request_folder(0)
    (request / "video.mp4").write_bytes(b"old")
    (request / ".video.gif.tmp").write_bytes(b"old")
    for name in ("frames/frame_000000.png", "latents/00000.safetensors", "latents/.tmpIsEq6s"):
        (request / name).parent.mkdir(exist_ok=True)
        (request / name).write_bytes(b"old")
    folder.release()
    return folder


def test_check_of_a_new_folder_leaves_no_trace(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "b").check()
    assert list(tmp_path.iterdir()) == []


def test_create_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    assert folder.request_folder(12) == tmp_path / "a" / "b" / "0012"
    assert (tmp_path / "a" / "b" / "0012").is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    assert folder.request_folder(0) == tmp_path / "0000"


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(OutputError, match="is a file; give a folder"):
        RunFolder(path, overwrite=True).check()
    with pytest.raises(OutputError, match="which is a file"):
        RunFolder(path / "run").check()


def test_a_folder_that_is_not_empty_is_refused_with_the_way_out(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"not empty.*--overwrite true") as refusal:
        RunFolder(tmp_path / "run").create()
    assert "\n" not in str(refusal.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("below", ["", "new/er"])
def test_what_is_not_writable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    # Root may write everywhere, so permission bits would not do.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="not writable"):
        RunFolder(tmp_path / below).check()


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path)
    others = {
        "notes.txt": b"mine",
        "0000/notes.txt": b"mine",
        "0000/latents/mine.safetensors": b"mine",
        "2024/photo.png": b"mine",
        "0001": b"a file, not a request folder",
    }
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    replaced = RunFolder(tmp_path, overwrite=True)
    replaced.create()
    replaced.release()
    assert snapshot(tmp_path) == others


def test_overwrite_removes_the_folders_that_it_empties(tmp_path: Path) -> None:
    make_run(tmp_path)
    replaced = RunFolder(tmp_path, overwrite=True)
    replaced.create()
    replaced.release()
    assert list(tmp_path.iterdir()) == []


def test_overwrite_does_not_take_a_config_that_no_run_left(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(OutputError, match="may be yours"):
        RunFolder(tmp_path, overwrite=True).create()
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_overwrite_does_not_follow_links_inside(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_run(elsewhere)
    before = snapshot(elsewhere)
    run = tmp_path / "run"
    run.mkdir()
    (run / "0000").symlink_to(elsewhere / "0000")
    with pytest.raises(OutputError, match="is a link"):
        RunFolder(run, overwrite=True).create()
    (run / "0000").unlink()
    (run / "0000").mkdir()
    (run / "0000" / "latents").symlink_to(elsewhere / "0000" / "latents")
    (run / "0000" / "video.mp4").symlink_to(elsewhere / "0000" / "video.mp4")
    RunFolder(run, overwrite=True).create()
    assert snapshot(elsewhere) == before
    assert not (run / "0000" / "video.mp4").is_symlink()


def test_a_linked_output_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_text("config.yaml", "x")
    assert (tmp_path / "disk" / "config.yaml").read_text() == "x"


def test_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="link to a folder that does not exist"):
        RunFolder(tmp_path / "run").check()


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("report.json", {"frames": 1})
    folder.write_json("report.json", {"frames": 2})
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.write_json("report.json", {"frames": float("nan")})

    def half_a_file() -> None:
        with replacing(tmp_path / "report.json") as temporary:
            temporary.write_text("half a fi")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_file()
    assert json.loads((tmp_path / "report.json").read_text()) == {"frames": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_a_process_was_writing_when_it_died_is_removed(tmp_path: Path) -> None:
    make_run(tmp_path)
    folder = RunFolder(tmp_path)
    folder.reopen()
    folder.release()
    assert [path.name for path in tmp_path.rglob(".*")] == []
    assert (tmp_path / "0000" / "latents" / "00000.safetensors").exists()


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "missing")
    with pytest.raises(OutputError, match=r"Cannot write .*report\.json: No such file"):
        folder.write_json("report.json", {})


def test_a_run_that_died_while_loading_can_be_replaced(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_text("config.yaml", f"{CONFIG_HEADER} 0\n")
    RunFolder(tmp_path, overwrite=True).create()
    assert not (tmp_path / "config.yaml").exists()
