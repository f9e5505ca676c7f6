"""A killed run leaves a video that plays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np

FPS = 8
SECONDS = 5
WRITE_FOR_EVER = f"""
import sys
from pathlib import Path
import torch
from longtake.framework.writers import Mp4Writer, VideoShape

writer = Mp4Writer(Path(sys.argv[1]), VideoShape(height=48, width=64, fps={FPS}))
writer.open()
while True:
    writer.write(torch.full((1, 48, 64, 3), 16 + 4 * (writer.frames % 50), dtype=torch.uint8))
    if writer.frames == {FPS * SECONDS}:
        print("enough", flush=True)
        sys.stdin.read()
"""


def test_a_killed_writer_leaves_a_video_that_plays(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "enough\n"
        process.kill()
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # Every whole second but the last one, which only the next one's start would have ended.
    assert FPS * (SECONDS - 1) <= len(pictures) <= FPS * SECONDS
    for index, picture in enumerate(pictures):
        assert np.abs(picture.astype(float) - (16 + 4 * (index % 50))).mean() < 3
