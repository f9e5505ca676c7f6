"""The writers: what is in their files is what they were given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from longtake.framework.engine.kept_video import became_of, left_at
from longtake.framework.writers import (
    GifWriter,
    Mp4Writer,
    PngWriter,
    VideoFormat,
    VideoShape,
    WebpWriter,
    frame_writer,
)
from longtake.framework.writers.formats import kept_video

HEIGHT, WIDTH, FPS = 48, 80, 8
FORMATS = get_args(VideoFormat)
# Mean absolute difference, of 255: 4:2:0 color and quantization on smooth moving pictures.
CODEC_TOLERANCE = 4.0
# The same with GIF's 256 colors per video frame, dithered.
PALETTE_TOLERANCE = 8.0


def moving(frames: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Return smooth color waves that move, each video frame unlike every other one."""
    t = torch.arange(frames).view(-1, 1, 1)
    y = torch.arange(height).view(1, -1, 1)
    x = torch.arange(width).view(1, 1, -1)
    waves = [(x / 15 + t / 3), (y / 12 - t / 4), ((x + y) / 19 + t / 5)]
    channels = [wave.expand(frames, height, width).sin() * 90 + 128 for wave in waves]
    return torch.stack(channels, -1).to(torch.uint8)


def shape(height: int = HEIGHT, width: int = WIDTH, zoom: int = 1) -> VideoShape:
    return VideoShape(height=height, width=width, fps=FPS, zoom=zoom)


def decoded(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(pictures).astype(np.float32)


def animation(path: Path) -> NDArray[np.float32]:
    with Image.open(path) as image:
        pictures = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            pictures.append(np.asarray(image.convert("RGB")))
    return np.stack(pictures).astype(np.float32)


def difference(pictures: NDArray[np.float32], frames: Tensor) -> float:
    """Return the largest of the video frames' mean absolute differences."""
    assert pictures.shape == tuple(frames.shape)
    return float(np.abs(pictures - frames.numpy()).mean(axis=(1, 2, 3)).max())


def test_mp4_gives_the_frames_back(tmp_path: Path) -> None:
    frames = moving(21)
    with Mp4Writer(tmp_path / "video.mp4", shape()) as writer:
        writer.write(frames[:5])
        writer.write(frames[5:5])
        writer.write(frames[5:])
    assert writer.frames == 21
    pictures = decoded(tmp_path / "video.mp4")
    assert difference(pictures, frames) < CODEC_TOLERANCE
    # A wrong order or a lost video frame would not pass as codec noise.
    assert np.abs(pictures[1:] - frames[:-1].numpy()).mean() > 2 * CODEC_TOLERANCE


def test_mp4_says_its_pace_and_color(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "video.mp4", shape()) as writer:
        writer.write(moving(17))
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        times = [frame.time for frame in frames]
        assert stream.average_rate == FPS
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert "creation_time" not in container.metadata | stream.metadata
    assert times == [index / FPS for index in range(17)]
    assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 8, 16]
    bt709, limited = 1, 1
    assert (frames[0].colorspace, frames[0].color_range) == (bt709, limited)


def test_mp4_plays_while_it_grows(tmp_path: Path) -> None:
    frames = moving(6 * FPS)
    path = tmp_path / "video.mp4"
    held_back = FPS + 2  # the second that has not ended, and what is on its way
    with Mp4Writer(path, shape()) as writer:
        writer.write(frames[: 2 * FPS])
        first = decoded(path)
        assert len(first) >= 2 * FPS - held_back
        assert difference(first, frames[: len(first)]) < CODEC_TOLERANCE
        writer.write(frames[2 * FPS :])
        second = decoded(path)
        assert len(second) >= 6 * FPS - held_back
        assert difference(second, frames[: len(second)]) < CODEC_TOLERANCE
    assert len(decoded(path)) == 6 * FPS


def test_mp4_quality_follows_crf(tmp_path: Path) -> None:
    frames = moving(9)
    sizes = []
    for crf in (10, 40):
        with Mp4Writer(tmp_path / f"{crf}.mp4", shape(), crf=crf) as writer:
            writer.write(frames)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_mp4_pads_odd_sizes_with_the_last_row_and_column(tmp_path: Path) -> None:
    frames = moving(4, 47, 79)
    with Mp4Writer(tmp_path / "video.mp4", shape(47, 79)) as writer:
        writer.write(frames)
    padded = np.pad(frames.numpy(), ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    assert difference(decoded(tmp_path / "video.mp4"), torch.from_numpy(padded)) < CODEC_TOLERANCE


def test_gif_gives_the_frames_back(tmp_path: Path) -> None:
    frames = moving(2 * FPS)
    path = tmp_path / "video.gif"
    with GifWriter(path, shape()) as writer:
        writer.write(frames)
        assert not path.exists()
    assert difference(animation(path), frames) < PALETTE_TOLERANCE
    assert durations(path) == pytest.approx(2000, abs=20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.gif"]


def test_webp_gives_the_frames_back(tmp_path: Path) -> None:
    frames = moving(2 * FPS)
    path = tmp_path / "video.webp"
    with WebpWriter(path, shape()) as writer:
        writer.write(frames)
        assert not path.exists()
    assert difference(animation(path), frames) < CODEC_TOLERANCE
    assert durations(path) == pytest.approx(2000, abs=20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.webp"]


def durations(path: Path) -> int:
    """Return an animation's length in milliseconds; it must loop for ever."""
    total = 0
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            total += int(image.info["duration"])
    return total


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_an_animation_keeps_frames_that_are_equal(tmp_path: Path, format: VideoFormat) -> None:
    frames = moving(1).expand(5, -1, -1, -1)
    with frame_writer(format, tmp_path, shape()) as writer:
        writer.write(frames)
    assert len(animation(tmp_path / f"video.{format}")) == 5


def test_png_is_exact(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    with PngWriter(tmp_path / "frames", shape()) as writer:
        writer.write(frames)
    paths = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in paths] == [f"frame_{index:06d}.png" for index in range(3)]
    for path, frame in zip(paths, frames, strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), frame.numpy())


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, format: VideoFormat) -> None:
    frames = moving(12)
    written = []
    for name, chunk in (("a", 12), ("b", 5)):
        (tmp_path / name).mkdir()
        with frame_writer(format, tmp_path / name, shape()) as writer:
            for start in range(0, 12, chunk):
                writer.write(frames[start : start + chunk])
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append([(path.name, path.read_bytes()) for path in files])
    assert written[0] == written[1]
    assert len(written[0]) == (12 if format == "png" else 1)


@pytest.mark.parametrize("format", FORMATS)
def test_what_somebody_does_to_a_finished_video_is_seen(
    tmp_path: Path, format: VideoFormat
) -> None:
    with frame_writer(format, tmp_path, shape()) as writer:
        writer.write(moving(3))
    assert writer.checksum is not None
    left = left_at(writer.path, writer.checksum)
    assert became_of(tmp_path, left) is None
    file = writer.path / "frame_000001.png" if format == "png" else writer.path
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert became_of(tmp_path, left) == "changed"
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    # Of pictures the sizes alone are looked at.
    assert became_of(tmp_path, left) == (None if format == "png" else "changed")
    file.unlink()
    assert became_of(tmp_path, left) == ("changed" if format == "png" else "removed")
    shutil.rmtree(writer.path, ignore_errors=True)
    assert became_of(tmp_path, left) == "removed"


@pytest.mark.parametrize("touch", [Path.unlink, lambda path: path.write_bytes(b"another")])
def test_pictures_that_somebody_removes_or_changes_meanwhile_are_told(
    tmp_path: Path, touch: Callable[[Path], object]
) -> None:
    writer = PngWriter(tmp_path / "frames", shape())
    writer.open()
    writer.write(moving(3))
    touch(writer.path / "frame_000001.png")
    with pytest.raises(OSError, match=r"No such file|was changed meanwhile"):
        writer.close()


def test_pictures_grow_behind_those_that_are_there(tmp_path: Path) -> None:
    frames = moving(5)
    with PngWriter(tmp_path / "whole", shape()) as whole:
        whole.write(frames)
    with PngWriter(tmp_path / "frames", shape()) as writer:
        writer.write(frames[:2])
    kept = kept_video("png", tmp_path, 2)
    assert kept is not None
    assert kept.checksum == writer.checksum
    assert kept_video("png", tmp_path, 3) is None
    with PngWriter(tmp_path / "frames", shape(), kept=kept) as grown:
        grown.write(frames[2:])
    assert (grown.frames, grown.checksum) == (5, whole.checksum)
    second = tmp_path / "frames" / "frame_000001.png"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(OSError, match="not what is to grow"):
        PngWriter(tmp_path / "frames", shape(), kept=kept).open()


@pytest.mark.parametrize("format", FORMATS)
def test_zoom_repeats_pixels(tmp_path: Path, format: VideoFormat) -> None:
    frames = moving(3)
    large = frames.repeat_interleave(4, 1).repeat_interleave(4, 2)
    with frame_writer(format, tmp_path, shape(zoom=4)) as writer:
        writer.write(frames)
    match format:
        case "mp4":
            assert difference(decoded(writer.path), large) < CODEC_TOLERANCE
        case "png":
            first = animation(writer.path / "frame_000000.png")
            assert difference(first, large[:1]) == 0
        case _:
            assert difference(animation(writer.path), large) < PALETTE_TOLERANCE


@pytest.mark.parametrize("format", FORMATS)
def test_a_writer_without_frames_closes(tmp_path: Path, format: VideoFormat) -> None:
    with frame_writer(format, tmp_path, shape()) as writer:
        pass
    assert writer.frames == 0


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(1, HEIGHT, WIDTH, 3),
        torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8),
        torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8),
        torch.zeros(1, HEIGHT, WIDTH + 2, 3, dtype=torch.uint8),
    ],
    ids=["float", "no-frames-dim", "channels-first", "other-size"],
)
def test_other_tensors_are_refused(tmp_path: Path, frames: Tensor) -> None:
    with (
        PngWriter(tmp_path / "frames", shape()) as writer,
        pytest.raises(ValueError, match=r"not torch.uint8 \(frames, 48, 80, 3\)"),
    ):
        writer.write(frames)


def test_the_best_quality_stays_playable(tmp_path: Path) -> None:
    """Crf 0 would be lossless: the profile High 4:4:4 Predictive, which few players show."""
    for crf in (0, 1, 18):
        with Mp4Writer(tmp_path / f"{crf}.mp4", shape(), crf=crf) as writer:
            writer.write(moving(8))
        with av.open(str(tmp_path / f"{crf}.mp4")) as container:
            assert container.streams.video[0].codec_context.profile == "High"
