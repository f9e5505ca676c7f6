"""MP4 files: their bytes are a function of the video frames, however they came about."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.framework.writers import Mp4Writer, VideoShape

FPS = 4
SHAPE = VideoShape(height=32, width=48, fps=FPS)


def frames(count: int = 14) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 255, (32, 48, 1), dtype=torch.uint8, generator=generator)
    picture = picture.expand(-1, -1, 3)
    return torch.stack([picture.roll(index, 1) for index in range(count)])


def made(path: Path, parts: list[Tensor], *, goes_on: bool = False, flush: bool = False) -> bytes:
    with Mp4Writer(path, SHAPE, goes_on=goes_on) as writer:
        for part in parts:
            writer.write(part)
            if flush:
                writer.flush()
    return path.read_bytes()


def shown(path: Path) -> tuple[list[int], list[np.ndarray]]:
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        assert [frame.time for frame in found] == [index / FPS for index in range(len(found))]
        return [frame.pts for frame in found], [f.to_ndarray(format="rgb24") for f in found]


def test_frames_come_back_in_time_and_once_each(tmp_path: Path) -> None:
    made(tmp_path / "video.mp4", [frames()])
    _, pictures = shown(tmp_path / "video.mp4")
    assert len(pictures) == 14
    for picture, frame in zip(pictures, frames().numpy(), strict=True):
        assert np.abs(picture.astype(float) - frame).mean() < 6


def test_the_bytes_do_not_depend_on_how_the_frames_come(tmp_path: Path) -> None:
    expected = made(tmp_path / "whole.mp4", [frames()])
    for sizes in ([1] * 14, [5, 9], [4, 4, 4, 2]):
        parts = list(torch.split(frames(), sizes))
        for flush in (False, True):
            assert made(tmp_path / "parts.mp4", parts, flush=flush) == expected


def test_after_a_flush_every_frame_plays(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = Mp4Writer(path, SHAPE)
    writer.open()
    for count, part in enumerate(torch.split(frames(6), 1), start=1):
        writer.write(part)
        writer.flush()
        assert len(shown(path)[1]) == count
    writer.close()


@pytest.mark.parametrize("length", [0, 10, 800, 2000, 4000, 9000])
def test_a_torn_file_is_gone_on_with_to_the_same_bytes(length: int, tmp_path: Path) -> None:
    expected = made(tmp_path / "whole.mp4", [frames()])
    path = tmp_path / "torn.mp4"
    path.write_bytes(expected[:length])
    assert made(path, [frames()], goes_on=True) == expected


def test_what_is_changed_or_too_long_is_replaced(tmp_path: Path) -> None:
    expected = made(tmp_path / "whole.mp4", [frames()])
    path = tmp_path / "changed.mp4"
    changed = bytearray(expected) + b"more"
    changed[1500] ^= 1
    path.write_bytes(changed)
    assert made(path, [frames()], goes_on=True) == expected


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_file_that_somebody_removes_is_not_called_finished(goes_on: bool, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = Mp4Writer(path, SHAPE, goes_on=goes_on)
    writer.open()
    writer.write(frames(5))
    path.unlink()
    with pytest.raises(OSError, match=r"video\.mp4 was removed or replaced"):
        writer.close()


def test_an_error_takes_nothing_away_from_a_file_that_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    expected = made(path, [frames()])
    writer = Mp4Writer(path, SHAPE, goes_on=True)
    writer.open()
    writer.write(frames(6))
    writer.abandon()
    assert path.read_bytes() == expected
    fresh = Mp4Writer(tmp_path / "fresh.mp4", SHAPE)
    fresh.open()
    fresh.write(frames(6))
    fresh.abandon()
    assert len(shown(tmp_path / "fresh.mp4")[1]) == 6
