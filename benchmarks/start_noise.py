"""Measures how closely a video follows given frames, by the share of noise they are seen with.

    python benchmarks/start_noise.py --runs 6

The bundled model continues clips that ``longtake.demo.shapes`` renders: the last frame of each
as an image, or its last 29 frames as a video. Every run is a prompt and a seed, alike for every
share (``model.start_noise``). Read from the video:

- *step*: the object's way into the first frame that is made, in median ways between frames;
- *change*: how much the pixels change there, in median changes between frames;
- *right*: share of the made frames that show the prompt's color and shape.

A step or change of 1 is what a seamless continuation has.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.demo import shapes
from longtake.demo.judge import judge
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.strategies import SingleDevice

SHARES = (1.0, 0.5, 0.25, 0.0)
FRAMES, CLIP, SIDE = 57, 33, 64
PROMPT_STRIDE = 67
"""Coprime to the 216 prompts: neighbors in the list differ in all their words."""


def main() -> None:
    """Make the videos and print a table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--runs", type=int, default=6, help="Prompts, each with its own seed.")
    runs = options.parse_args().runs
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kept in (1, 29):
            for share in SHARES:
                seen = [_measure(Path(folder), run, kept, share) for run in range(runs)]
                steps, changes, right = zip(*seen, strict=True)
                rows.append(
                    [
                        "image" if kept == 1 else f"last {kept} frames",
                        f"{share:g}",
                        f"{median(steps):.1f} ({max(steps):.1f})",
                        f"{median(changes):.1f} ({max(changes):.1f})",
                        f"{100 * mean(right):.0f} %",
                    ]
                )
                print(*rows[-1], flush=True)
    head = ["start", "start_noise", "step, median (worst)", "change, median (worst)", "right"]
    print(f"\n{machine()}; {runs} videos each of {FRAMES} frames\n")
    print(table(head, rows))


def _measure(folder: Path, run: int, kept: int, share: float) -> tuple[float, float, float]:
    """Return step, change and share of right frames of one video."""
    prompts = shapes.all_prompts()
    prompt = prompts[run * PROMPT_STRIDE % len(prompts)]
    generation_config = GenerationConfig(
        pipeline="demo", steps=16, guidance_scale=2.0, dtype="float32", start_noise=share
    )
    request = Request(
        prompts=(PromptAt(text=prompt),),
        num_frames=FRAMES,
        height=SIDE,
        width=SIDE,
        seed=run,
        start=str(_clip(folder, prompt, run)),
        start_frames=kept,
    )
    engine = Engine(generation_config, SingleDevice())
    events = engine.generate(request)
    video = torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])
    judged = judge(video)
    ways, changes = judged.steps(), _changes(video)
    return (
        float(ways[kept - 1] / ways.nanmedian()),
        float(changes[kept - 1] / changes.median()),
        float(judged.right(prompt)[kept:].float().mean()),
    )


def _clip(folder: Path, prompt: str, seed: int) -> Path:
    """Return a lossless animation of a rendered clip."""
    file = folder / f"{seed}.png"
    if not file.exists():
        clip = shapes.clip_of_prompt(prompt, torch.Generator().manual_seed(seed))
        pixels = (shapes.render_clips(clip, CLIP)[0] + 1.0) * 127.5
        frames = pixels.round().to(torch.uint8).permute(1, 2, 3, 0)
        first, *others = [Image.fromarray(frame.numpy()) for frame in frames]
        first.save(file, save_all=True, append_images=others)
    return file


def _changes(video: Tensor) -> Tensor:
    return (video[1:].float() - video[:-1].float()).abs().mean(dim=(1, 2, 3))


if __name__ == "__main__":
    main()
