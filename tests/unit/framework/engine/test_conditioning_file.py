"""What is read of a start's file: shown as a viewer shows it, or refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from longtake.errors import ConfigurationError
from longtake.framework import PromptAt, Request
from longtake.framework.engine.conditioning import other_rate
from longtake.framework.engine.conditioning_file import ConditioningFile

CASES = Path(__file__).parents[3] / "cases"


def _request(**options: Any) -> Request:
    return Request(
        prompts=(PromptAt(text="red"),), num_frames=37, height=32, width=48, seed=0, **options
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [("fps60.mp4", "of 60 frames a second"), ("fps30.mp4", "and shown 1.88 times slower")],
)
def test_another_frame_rate_is_said(file: str, words: str) -> None:
    start = str(CASES / "start-other-frame-rate" / file)
    said = other_rate(_request(start=start, fps=16))
    assert said is not None
    assert words in said


def test_its_own_frame_rate_is_not_worth_a_word() -> None:
    start = str(CASES / "start-other-frame-rate" / "fps30.mp4")
    assert other_rate(_request(start=start, fps=30)) is None
    assert other_rate(_request(start=None, fps=30)) is None


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((1, 0, 0, 1), (0, 0)), ((0, 1, -1, 0), (0, 1)), ((-1, 0, 0, -1), (1, 1))],
    ids=["as stored", "clockwise", "upside down"],
)
def test_a_video_is_turned_as_a_viewer_turns_it(
    tmp_path: Path, matrix: tuple[int, ...], corner: tuple[int, int]
) -> None:
    """Its stored picture is white in the first corner; the file's header says how it is held."""
    file = tmp_path / "turned.mp4"
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
    frame = ConditioningFile(str(file)).original(1)
    height, width, _ = frame.shape
    assert (width, height) == ((64, 96) if matrix[0] == 0 else (96, 64))
    row, column = corner
    white = frame[row * height // 2 :, column * width // 2 :][: height // 2, : width // 2]
    assert white.float().mean() > 240
    assert frame.float().mean() < 80, "and black elsewhere"


@pytest.mark.parametrize(("ending", "frames"), [("tif", 1), ("gif", 2), ("png", 2), ("webp", 2)])
def test_only_animations_are_videos(tmp_path: Path, ending: str, frames: int) -> None:
    """The second picture of a TIFF is a page, which no viewer shows first."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    file = tmp_path / f"x.{ending}"
    first.save(file, save_all=True, append_images=[second])
    read = ConditioningFile(str(file))
    assert read.count() == frames
    assert read.last(1, 16, 16).float().mean() == (255 if frames == 1 else 0)


def test_the_first_picture_of_a_jpeg_of_several_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("white", "black"))
    file = tmp_path / "x.jpg"
    first.save(file, format="MPO", save_all=True, append_images=[second])
    read = ConditioningFile(str(file))
    assert read.count() == 1
    assert read.last(1, 16, 16).float().mean() > 250


def test_hdr_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hdr.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.color_trc = 16
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    with pytest.raises(ConfigurationError, match=r"an HDR video \(PQ\)"):
        ConditioningFile(str(file))


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    Image.new("1", (10_000, 8_500)).save(file)
    with pytest.raises(ConfigurationError, match="10000 x 8500 pixels, more than the"):
        ConditioningFile(str(file))
