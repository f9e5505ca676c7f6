"""Journal and checked files: what is read is what was written, or it is said that it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longtake.errors import OutputError
from longtake.framework.engine.checked_file import (
    DamagedFile,
    check,
    facts_of,
    load_checked,
    save_checked,
)
from longtake.framework.engine.journal import Journal, KeepLatents
from longtake.task import FrameRange

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor(1.5),
    "c": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(2, 0),
}


def written(folder: Path) -> Journal:
    journal = Journal(folder)
    for block in range(4):
        frames = FrameRange(3 * block, 3 * block + 3)
        journal.append(block, frames, torch.full((1, 2, 3, 2, 2), float(block)))
    return journal


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.safetensors"
    save_checked(path, TENSORS, {"name": "x", "list": [1, 2]})
    tensors, facts = load_checked(path)
    assert facts == {"format": 1, "name": "x", "list": [1, 2]} == facts_of(path)
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        name: (t.dtype, t.shape) for name, t in TENSORS.items()
    }
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    again = tmp_path / "again.safetensors"
    save_checked(again, dict(reversed(TENSORS.items())), {"list": [1, 2], "name": "x"})
    assert again.read_bytes() == path.read_bytes(), "the bytes are a function of what is said"


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_checked(path, TENSORS, {"name": "x"})
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        # Spaces that fill the header up, and the order of its keys, say nothing.
        try:
            tensors, facts = load_checked(path)
        except DamagedFile:
            continue
        assert facts == {"format": 1, "name": "x"}, f"byte {at}"
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS), f"byte {at}"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            check(path)


def test_a_file_of_others_or_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(DamagedFile, match="cannot be read"):
        check(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(DamagedFile, match="not written by longtake"):
        check(path)
    save_checked(path, TENSORS, {"format": 2})
    with pytest.raises(DamagedFile, match="format 2, but this version reads 1"):
        check(path)


def test_a_block_is_read_back_as_it_was_finished(tmp_path: Path) -> None:
    journal = written(tmp_path)
    assert journal.blocks() == [0, 1, 2, 3]
    assert torch.equal(journal.read(2, FrameRange(6, 9)), torch.full((1, 2, 3, 2, 2), 2.0))
    with pytest.raises(DamagedFile, match="holds latent frames 6:9, not 6:8"):
        journal.read(2, FrameRange(6, 8))
    with pytest.raises(DamagedFile):
        journal.read(4, FrameRange(12, 15))


@pytest.mark.parametrize(
    ("keep", "left"), [("all", [0, 1, 2, 3]), ("tail", [1, 2, 3]), ("none", [])]
)
def test_a_finished_request_keeps_what_it_is_to_keep(
    keep: KeepLatents, left: list[int], tmp_path: Path
) -> None:
    journal = written(tmp_path)
    journal.finish(keep)
    assert journal.blocks() == left
    assert journal.folder.exists() == bool(left)


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latents").write_text("in the way")
    with pytest.raises(OutputError, match="Cannot write"):
        Journal(tmp_path).append(0, FrameRange(0, 1), torch.zeros(1, 1, 1, 1, 1))
