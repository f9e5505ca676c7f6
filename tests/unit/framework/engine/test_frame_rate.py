"""Frame rates: whole numbers, and fractions as people write them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from longtake.errors import ConfigurationError
from longtake.framework.data import PromptData
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.frame_rate import frame_rate, written
from longtake.framework.writers import GifWriter, Mp4Writer, VideoShape, WebpWriter

NTSC = Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (24, 24),
        (24.0, 24),
        ("24", 24),
        (23.976, NTSC),
        (23.98, NTSC),
        ("23.976", NTSC),
        ("24000/1001", NTSC),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        ("25/2", Fraction(25, 2)),
    ],
)
def test_a_rate_is_the_one_that_is_meant(value: Any, rate: Fraction | int) -> None:
    found = frame_rate(value)
    assert found == rate
    assert type(found) is type(rate)
    assert frame_rate(written(found)) == found


@pytest.mark.parametrize("value", ["fast", "24/0", float("nan"), float("inf"), ""])
def test_what_is_no_rate_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"such as 24, 23.976 or 24000/1001"):
        PromptData("a bird", fps=value).requests()


def test_times_are_exact() -> None:
    """A keyframe after an hour is at the frame that is shown then."""
    (request,) = PromptData("a bird", fps=23.976).requests()
    assert request.fps * 3600 == Fraction(24000 * 3600, 1001)


@pytest.mark.parametrize(
    ("writer", "name"), [(Mp4Writer, "a.mp4"), (GifWriter, "a.gif"), (WebpWriter, "a.webp")]
)
def test_files_play_at_the_rate(tmp_path: Path, writer: Any, name: str) -> None:
    """More than a fragment of a second, so that times go on where the next one begins."""
    frames = torch.randint(0, 255, (60, 32, 48, 3), dtype=torch.uint8)
    with writer(tmp_path / name, VideoShape(height=32, width=48, fps=NTSC)) as file:
        file.write(frames)
    if name.endswith("webp"):  # which counts milliseconds, each picture's by itself
        rate = ConditioningFile(str(tmp_path / name)).rate()
        assert rate == pytest.approx(float(NTSC), abs=0.6)
        return
    with av.open(str(tmp_path / name)) as container:
        times = [frame.time for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    assert len(times) == 60
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(59 / NTSC, abs=0.011)  # GIF counts hundredths
    if name.endswith("mp4"):
        assert rate == NTSC
