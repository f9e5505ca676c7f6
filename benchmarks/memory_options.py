"""Measures how far each option that saves memory moves a video from the one without it.

    python benchmarks/memory_options.py

The bundled model makes the same videos with every option, in float32 otherwise. Reported over all
videos: the relative distance of the latents and the PSNR of the frames to the videos made without,
and the share of frames that show the prompt's color and shape.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.demo import shapes
from longtake.demo.judge import judge
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.engine.generation_config import Quantization
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice

FRAMES, SIDE = 97, 64
PROMPT_STRIDE = 67
"""Coprime to the 216 prompts: neighbors in the list differ in all their words."""
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "dtype: bfloat16": {"dtype": "bfloat16"},
    "quantize: {transformer: int8}": {"quantize": Quantization(transformer="int8")},
    "quantize: {transformer: fp8}": {"quantize": Quantization(transformer="fp8")},
    "quantize: {text_encoder: int8}": {"quantize": Quantization(text_encoder="int8")},
    "quantize: {text_encoder: fp8}": {"quantize": Quantization(text_encoder="fp8")},
    "offload: layers": {"offload": "layers"},
    "cache_format: int8": {"cache_format": "int8"},
    "cache_format: fp8": {"cache_format": "fp8"},
    "vae_dtype: bfloat16": {"vae_dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Made:
    """The videos of one option: latents, frames in 0 to 255, and the share of right frames."""

    latents: Tensor
    frames: Tensor
    right: float


def main() -> None:
    """Make the videos and print a table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--runs", type=int, default=4, help="Prompts, each with its own seed.")
    runs = options.parse_args().runs
    plain, rows = None, []
    for name, option in OPTIONS.items():
        made = _made(option, runs)
        plain = plain or made
        distance = (made.latents - plain.latents).norm() / plain.latents.norm()
        error = (made.frames - plain.frames).square().mean()
        psnr = "equal" if error == 0 else f"{10 * torch.log10(255**2 / error):.1f} dB"
        rows.append([f"`{name}`", f"{distance:.1e}", psnr, f"{100 * made.right:.0f} %"])
        print(*rows[-1], flush=True)
    print(f"\n{machine()}; {runs} videos of {FRAMES} frames\n")
    print(table(["option", "latents", "frames", "right object"], rows))


def _made(option: dict[str, Any], runs: int) -> Made:
    config: dict[str, Any] = {"dtype": "float32", "steps": 16, "guidance_scale": 2.0} | option
    engine = Engine(
        GenerationConfig(pipeline="demo", scheduler=FifoQueue(8, 8), **config), SingleDevice()
    )
    latents: list[Tensor] = []
    frames: list[Tensor] = []
    right: list[float] = []
    prompts = shapes.all_prompts()
    for run in range(runs):
        prompt = prompts[run * PROMPT_STRIDE % len(prompts)]
        request = Request(
            prompts=(PromptAt(text=prompt),),
            num_frames=FRAMES,
            height=SIDE,
            width=SIDE,
            seed=run,
            index=0,
        )
        events = list(engine.generate(request))
        latents += [event.latents for event in events if isinstance(event, BlockDone)]
        shown = torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])
        frames.append(shown.float())
        right.append(float(judge(shown).right(prompt).float().mean()))
    return Made(torch.cat([one.flatten() for one in latents]), torch.cat(frames), mean(right))


if __name__ == "__main__":
    main()
