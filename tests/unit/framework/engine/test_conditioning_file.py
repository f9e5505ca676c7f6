"""What is read of a start's file: shown as a viewer shows it, or refused."""

from __future__ import annotations

import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from longtake.errors import ConfigurationError
from longtake.framework import PromptAt, Request
from longtake.framework.engine.conditioning import lower_rate
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.frame_source import picks
from longtake.framework.engine.inputs import inputs_of
from longtake.framework.writers import PngWriter, VideoShape

CASES = Path(__file__).parents[3] / "cases"


def _request(**options: Any) -> Request:
    return Request(
        prompts=(PromptAt(text="red"),), num_frames=37, height=32, width=48, seed=0, **options
    )


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


def write_video(
    file: Path, frames: list[np.ndarray[Any, Any]], rate: Fraction | int, codec: str = "libx264"
) -> None:
    """Write pictures as a video whose every frame is as good as lossless."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1"})
        height, width, _ = frames[0].shape
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def gray(level: int, height: int = 32, width: int = 48) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), level, np.uint8)


def brightness(file: ConditioningFile, frames: int) -> list[float]:
    return [float(frame.float().mean()) for frame in file.last(frames, 32, 48)]


# When each frame is shown.


@pytest.mark.parametrize(("file", "rate"), [("fps60.mp4", 60), ("fps30.mp4", 30)])
def test_frames_are_picked_at_the_rate_of_the_new_video(file: str, rate: int) -> None:
    """Of 60 frames a second, each 6 brighter than the one before, every 3.75th is kept at 16."""
    path = str(CASES / "start-other-frame-rate" / file)
    every = ConditioningFile(path)
    count = every.count()
    levels = brightness(every, count)
    step = (levels[-1] - levels[0]) / (count - 1)
    picked = ConditioningFile(path, fps=Fraction(16))
    assert picked.rate() == rate
    assert picked.count() == int((count - 1) / rate * 16 + 0.5) + 1
    found = brightness(picked, picked.count())
    assert found[-1] == levels[-1], "it goes on from the last frame"
    for back, level in enumerate(reversed(found)):
        assert abs(levels[-1] - back * step * rate / 16 - level) <= step / 2 + 1, back


def test_gaps_between_frames_are_shown_as_long_as_they_last() -> None:
    path = str(CASES / "start-other-frame-rate" / "vfr.mp4")
    with av.open(path) as container:
        decoded = list(container.decode(video=0))
    shown = [(float(frame.time or 0), frame.to_ndarray(format="gray").mean()) for frame in decoded]
    picked = ConditioningFile(path, fps=Fraction(16))
    found = brightness(picked, picked.count())
    last = shown[-1][0]
    for back, level in enumerate(reversed(found)):
        moment = last - back / 16
        near = [now for time, now in shown if time <= moment + 1 / 32]
        assert abs(level - near[-1]) <= 8, moment


def test_nearly_equal_rates_take_each_frame_once() -> None:
    for own, wanted in ((Fraction(24000, 1001), 24), (24, Fraction(24000, 1001)), (16, 16)):
        times = tuple(round(Fraction(n) / own, 3) for n in range(200))  # as a container rounds them
        assert picks(times, Fraction(wanted)) == list(range(200))


def test_a_slower_video_repeats_frames_and_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "slow.mp4"
    write_video(file, [gray(20 * n) for n in range(9)], rate=8)
    picked = ConditioningFile(str(file), fps=Fraction(16))
    assert picked.count() == 17
    levels = brightness(picked, 4)
    assert levels[-1] - levels[-2] > 15
    assert abs(levels[-2] - levels[-3]) < 2
    said = lower_rate(_request(start=str(file), fps=16))
    assert said is not None
    assert "a video of 8 frames a second, but data.fps is 16" in said
    assert lower_rate(_request(start=str(file), fps=8)) is None
    assert lower_rate(_request(start=None, fps=30)) is None


def test_an_animation_is_played_as_long_as_its_pictures_say(tmp_path: Path) -> None:
    file = tmp_path / "a.webp"
    pictures = [Image.fromarray(gray(60 * n)) for n in range(4)]
    pictures[0].save(
        file, save_all=True, append_images=pictures[1:], lossless=True, duration=[250, 500, 250, 1]
    )
    read = ConditioningFile(str(file), fps=Fraction(4))
    assert brightness(read, read.count()) == [0, 60, 60, 120, 180]


# Which colors.


@pytest.mark.parametrize(
    ("size", "tag", "full", "rgb"),
    [
        ((64, 64), None, False, (254, 0, 0)),
        ((1280, 64), None, False, (255, 24, 0)),
        ((64, 578), None, False, (255, 24, 0)),
        ((1280, 64), 6, False, (254, 0, 0)),
        ((64, 64), 1, False, (255, 24, 0)),
        ((64, 64), 9, False, (255, 10, 0)),
        ((64, 64), 6, True, (238, 14, 14)),
    ],
)
def test_colors_follow_the_tags_and_without_them_the_size(
    tmp_path: Path, size: tuple[int, int], tag: int | None, full: bool, rgb: tuple[int, ...]
) -> None:
    """Y, U, V of 81, 90, 240: what they are in RGB is worked out by hand from H.273."""
    file = tmp_path / "color.mkv"
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, level in zip(frame.planes, (81, 90, 240), strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if tag is not None:
            stream.codec_context.colorspace = frame.colorspace = tag
        if full:
            stream.codec_context.color_range = frame.color_range = 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = ConditioningFile(str(file)).original(1)[10, 10].tolist()
    assert max(abs(a - b) for a, b in zip(shown, rgb, strict=True)) <= 2, shown


@pytest.mark.parametrize(("codec", "pixels"), [("png", "rgba"), ("prores_ks", "yuva444p10le")])
def test_hidden_pixels_of_a_video_stay_hidden(tmp_path: Path, codec: str, pixels: str) -> None:
    """Magenta, whose lower half is transparent."""
    file = tmp_path / "alpha.mov"
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[..., [0, 2]] = 255
    picture[:16, :, 3] = 255
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = ConditioningFile(str(file)).original(1)
    assert shown[2, 5].tolist() == pytest.approx([255, 0, 255], abs=3)
    assert shown[30, 5].tolist() == [255, 255, 255]


def test_a_color_profile_is_applied(tmp_path: Path) -> None:
    """Full green of a profile whose green and red are swapped is red."""
    file = tmp_path / "profile.png"
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    Image.new("RGB", (16, 16), (0, 255, 0)).save(file, icc_profile=bytes(profile))
    red_pixel = ConditioningFile(str(file)).original(1)[0, 0].tolist()
    assert red_pixel[0] > 250
    assert max(red_pixel[1:]) < 5
    Image.new("RGB", (16, 16), (0, 255, 0)).save(file, icc_profile=b"broken")
    assert ConditioningFile(str(file)).original(1)[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("pictures", [1, 3])
def test_avif_is_read(tmp_path: Path, pictures: int) -> None:
    file = tmp_path / "a.avif"
    first, *others = (Image.fromarray(gray(40 * n)) for n in range(pictures))
    first.save(file, save_all=True, append_images=others, quality=100, duration=125)
    read = ConditioningFile(str(file), fps=Fraction(8))
    assert brightness(read, read.count()) == pytest.approx([40 * n for n in range(pictures)], abs=3)


def test_pictures_of_phones_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.heic"
    file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ConfigurationError, match="HEIC is not read; convert it to JPEG or PNG"):
        ConditioningFile(str(file))


def test_a_file_without_a_video_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(ConfigurationError, match="which holds no video"):
        ConditioningFile(str(file))


# Folders of frames.


def test_a_folder_of_frames_is_read_in_the_order_of_numbers(tmp_path: Path) -> None:
    for n in range(1, 13):
        Image.fromarray(gray(20 * n)).save(tmp_path / f"f{n}.png")
    (tmp_path / ".DS_Store").write_text("")
    read = ConditioningFile(str(tmp_path), fps=Fraction(16))
    assert read.count() == 12
    assert read.rate() is None
    assert brightness(read, 5) == [20.0 * n for n in range(8, 13)]


def test_frames_that_longtake_has_written_are_continued(tmp_path: Path) -> None:
    """The run's folder, and that of its request, name what is meant in them."""
    frames = torch.stack([torch.from_numpy(gray(30 * n)) for n in range(5)])
    folder = tmp_path / "0000" / "frames"
    folder.parent.mkdir()
    with PngWriter(folder, VideoShape(height=32, width=48, fps=8)) as writer:
        writer.write(frames)
    assert torch.equal(ConditioningFile(str(folder)).last(5, 32, 48), frames)
    for path in (tmp_path, tmp_path / "0000"):
        with pytest.raises(
            ConfigurationError, match=r"a run's folder; give the video itself, .*frames"
        ):
            ConditioningFile(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "a folder without a picture"),
        ("notes.txt", "notes.txt is no picture; a folder of frames holds nothing else"),
        ("b.png", "b.png has 16 x 16 pixels and a.png 48 x 32; frames of one video have one size"),
        ("large.png", "large.png is of 10000 x 8500 pixels, more than the"),
    ],
)
def test_a_folder_that_is_no_video_is_refused(tmp_path: Path, name: str | None, words: str) -> None:
    if name is not None:
        Image.fromarray(gray(0)).save(tmp_path / "a.png")
    match name:
        case "notes.txt":
            (tmp_path / name).write_text("x")
        case "b.png":
            Image.new("RGB", (16, 16)).save(tmp_path / name)
        case "large.png":
            Image.new("1", (10_000, 8_500)).save(tmp_path / name)
    with pytest.raises(ConfigurationError, match=words):
        ConditioningFile(str(tmp_path))


def test_a_folder_has_a_checksum_of_all_that_is_read_of_it(tmp_path: Path) -> None:
    def checksum() -> str:
        (said,) = inputs_of([_request(start=str(tmp_path), fps=8)])["requests"]
        return str(said["start_checksum"])

    for n in range(2):
        Image.fromarray(gray(9 * n)).save(tmp_path / f"{n}.png")
    first = checksum()
    (tmp_path / ".hidden").write_text("")
    assert checksum() == first
    Image.fromarray(gray(1)).save(tmp_path / "1.png")
    assert checksum() != first


# Frames that are read as an encoder goes through them.


def test_frames_are_decoded_once_and_forgotten(tmp_path: Path) -> None:
    """Of tiles that overlap, all frames come; those before the last slice are held no more."""
    file = tmp_path / "x.mp4"
    write_video(file, [gray(level) for level in range(20, 180, 8)], rate=16)
    whole = ConditioningFile(str(file)).last(17, 16, 24)
    frames = ConditioningFile(str(file)).frames(17, 16, 24)
    assert len(frames) == 17
    for first in range(0, 17, 4):
        assert torch.equal(frames[first : first + 7], whole[first : first + 7])
        assert len(frames._held) <= 7
    assert frames[17:].shape == (0, 16, 24, 3)
    assert torch.equal(frames[2:4], whole[2:4]), "read once more"
    assert torch.equal(frames[:], whole)


def test_a_frame_that_is_shown_several_times_is_decoded_once(tmp_path: Path) -> None:
    file = tmp_path / "x.mp4"
    write_video(file, [gray(level) for level in (20, 100, 180)], rate=4)
    frames = ConditioningFile(str(file), fps=Fraction(8)).frames(5, 32, 48)
    levels = [float(frames[n : n + 1].float().mean()) for n in range(len(frames))]
    assert len(set(levels)) == 3
    assert levels == sorted(levels)


def test_the_packets_of_a_video_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.mp4"
    write_video(file, [gray(level) for level in range(20, 180, 8)], rate=16)
    opened: list[str] = []
    real = av.open

    def counted(name: str, *args: Any) -> Any:
        opened.append(name)
        return real(name, *args)

    monkeypatch.setattr(av, "open", counted)
    read = ConditioningFile(str(file), fps=Fraction(16))
    before = len(opened)  # its header, and its first frame
    assert read.count() == 20
    assert read.rate() == 16
    read.last(5, 16, 16)
    read.original(5)
    assert before <= 3
    assert len(opened) - before == 2, "one for each of the last two"


# Kinds of files that people have.


def shaded(height: int = 32, width: int = 48) -> np.ndarray[Any, Any]:
    """Return a picture that is red on the right and green at the bottom."""
    rows, columns = np.mgrid[:height, :width]
    parts = (columns * 255 // (width - 1), rows * 255 // (height - 1), np.full_like(rows, 40))
    return np.stack(parts, axis=-1).astype(np.uint8)


def corner(orientation: int) -> tuple[int, int]:
    """Return in which corner the stored picture's first pixel is shown: row, column."""
    return {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_they_say(tmp_path: Path, orientation: int) -> None:
    """All eight ways; the first stored pixel is the darkest."""
    exif = Image.Exif()
    exif[0x112] = orientation
    file = tmp_path / "x.png"
    Image.fromarray(shaded()).save(file, exif=exif)
    found = ConditioningFile(str(file)).original(1)
    height, width, _ = found.shape
    assert (height, width) == ((32, 48) if orientation < 5 else (48, 32))
    row, column = corner(orientation)
    assert found[-row, -column].tolist() == [0, 0, 40]


@pytest.mark.parametrize("kind", ["cmyk.jpg", "ycc.tif", "x.bmp", "named.jpg", "x.webp", "x.avif"])
def test_pictures_of_other_kinds_show_the_same(tmp_path: Path, kind: str) -> None:
    image, file = Image.fromarray(shaded()), tmp_path / kind
    match kind:
        case "cmyk.jpg":
            image.convert("CMYK").save(file, quality=98)
        case "ycc.tif":
            image.convert("YCbCr").save(file)
        case "named.jpg":
            image.save(file, format="PNG")
        case _:
            image.save(file, quality=98)
    found = ConditioningFile(str(file)).original(1)
    difference = (found.float() - torch.from_numpy(shaded()).float()).abs()
    assert difference.mean() < 4


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(shaded()[..., 0] > 128).save(tmp_path / "x.png")
    found = ConditioningFile(str(tmp_path / "x.png")).original(1)
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[0, -1].tolist() == [255, 255, 255]


def test_a_transparent_color_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 255, 0, 0, 255])
    image.putpixel((3, 3), 1)
    image.save(tmp_path / "x.png", transparency=0)
    found = ConditioningFile(str(tmp_path / "x.png")).original(1)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[3, 3].tolist() == [0, 0, 255]


@pytest.mark.parametrize("name", ["odd.png", "odd.mkv"])
def test_odd_sizes_are_read(tmp_path: Path, name: str) -> None:
    if name == "odd.mkv":
        write_video(tmp_path / name, [gray(90, 31, 47)], rate=16, codec="ffv1")
    else:
        Image.fromarray(gray(90, 31, 47)).save(tmp_path / name)
    read = ConditioningFile(str(tmp_path / name))
    assert read.original(1).shape == (31, 47, 3)
    assert (read.last(1, 32, 48).float() - 90).abs().max() <= 1


def test_what_holds_no_picture_is_refused_in_a_sentence(tmp_path: Path) -> None:
    files = {"empty.png": b"", "empty.mp4": b"", "words.png": b"hello", "noise.mp4": b"\0" * 4096}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4_410), np.float32), "fltp", "mono")
        sound.rate = 44_100
        container.mux([*stream.encode(sound), *stream.encode()])
    Image.fromarray(shaded()).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    why = {
        "empty.png": "an empty file",
        "empty.mp4": "an empty file",
        "words.png": "Invalid data found when processing input.$",
        "noise.mp4": "Invalid data found when processing input.$",
        "sound.mp4": "holds no video",
        "cut.jpg": "[Tt]runcated",
    }
    for name, words in why.items():
        with pytest.raises(ConfigurationError, match=words):
            ConditioningFile(str(tmp_path / name))
