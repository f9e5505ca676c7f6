"""Make a video with the model of ``plug_in_backbone.py``, from random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import plug_in_backbone  # noqa: F401  (registers the family)
from longtake.api import (
    Engine,
    FramesDecoded,
    GenerationConfig,
    PromptAt,
    Request,
    SingleDevice,
)
from sketch_dit import save_random


def main() -> None:
    """Print the shape of the video: (frames, height, width, 3)."""
    with tempfile.TemporaryDirectory() as path:
        save_random(Path(path) / "sketch")
        engine = Engine(
            GenerationConfig(pipeline=f"{path}/sketch", steps=5, dtype="float32"), SingleDevice()
        )
        prompts = (PromptAt(text="a bird in the sky"),)
        events = engine.generate(Request(prompts=prompts, num_frames=20, height=48, width=64))
        frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
        print(tuple(torch.cat(frames).shape))


if __name__ == "__main__":
    main()
