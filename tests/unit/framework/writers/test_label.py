"""Files say that they are machine-made, and hold the same frames as those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from PIL import Image
from tests.unit.framework.writers.test_writers import animation, decoded, moving, shape

from longtake.framework.callbacks import VideoWriter
from longtake.framework.writers import VideoFormat, frame_writer
from longtake.framework.writers.label import label

SAID = label("owner/name@0123", 7)
FORMATS = get_args(VideoFormat)


def made(folder: Path, format: VideoFormat, said: str, frames: int = 5) -> Path:
    folder.mkdir()
    with frame_writer(format, folder, shape(), label=said) as writer:
        writer.write(moving(frames))
    return next(path for path in folder.rglob("*") if path.is_file())


def test_the_label_names_model_and_seed() -> None:
    assert SAID.startswith("Machine-made (trainedAlgorithmicMedia) by longtake ")
    assert SAID.endswith(", model owner/name@0123, seed 7")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("said", [SAID, "x" * 600, 'a "quoted" <name> & ü'])
def test_files_hold_their_label(format: VideoFormat, said: str, tmp_path: Path) -> None:
    path = made(tmp_path / "labelled", format, said)
    if format == "mp4":
        with av.open(str(path)) as container:
            assert container.metadata["comment"] == said
        return
    with Image.open(path) as image:
        if format == "gif":
            image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
            assert said.encode() in b"".join(
                piece for piece in _pieces(path.read_bytes(), len(said.encode()))
            )
        elif format == "png":
            assert image.text["Comment"] == said  # type: ignore[attr-defined]
            assert "trainedAlgorithmicMedia" in str(image.info["XML:com.adobe.xmp"])
        else:
            assert b"digitalsourcetype/trainedAlgorithmicMedia" in image.info["xmp"]
            assert "UserComment=" in image.info["xmp"].decode()


def _pieces(data: bytes, length: int) -> list[bytes]:
    """Return the blocks of a GIF's last comment."""
    at, found = data.rindex(b"\x21\xfe", 0, len(data) - length) + 2, []
    while data[at]:
        found.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    assert data[at:] == b"\0\x3b"
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("frames", [1, 5])
def test_a_label_changes_no_frame(format: VideoFormat, frames: int, tmp_path: Path) -> None:
    labelled = made(tmp_path / "labelled", format, SAID, frames)
    bare = made(tmp_path / "bare", format, "", frames)
    read = decoded if format in ("mp4", "png") else animation
    assert np.array_equal(read(labelled), read(bare))
    assert b"Machine-made" not in bare.read_bytes()
    assert labelled.read_bytes() != bare.read_bytes() or (format, frames) == ("webp", 1)


def test_the_label_can_be_left_out() -> None:
    assert VideoWriter(label=False)._label is False
