"""Measures what the approximation of each feature cache does to the video, on the bundled model.

    python benchmarks/cache_quality.py --runs 16

Every run is a prompt and a seed. Each is made as a long video with every cache, same noise, and as
one native clip (``FullSequence``, 33 frames), which is the yardstick: what the model can do without
any cutting. ``longtake.demo.judge`` reads from every video frame what it shows:

- *right*: share of the frames that show the prompt's color and shape; *last quarter*: of those
  alone, to see decay; *ground*: share with the prompt's background;
- *seam*: the object's way into a block's first frame, divided by the median way between frames
  (1: nothing to be seen; mean over the seams of a video), and *worst*: the largest of them;
- *jump*: the largest way anywhere in the video, in median ways (the native clip has it too);
- *color*: root mean square distance of the object's color from its mean over time, 0 to 255.

Every finished video is a line in ``--results``; what is there is not made again, so a run can be
stopped and continued, at low priority (``nice -n 19``). Lines of other weights do not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, machine, spread, table

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.demo import shapes
from longtake.demo.judge import judge
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.request import PromptAt, Request
from longtake.models import open_folder
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.strategies import SingleDevice

CACHES: dict[str, FeatureCache] = {
    "NoCache": NoCache(),
    "NextBlockKV": NextBlockKV(),
    "SameStepKV": SameStepKV(),
}
NATIVE = "native clip"
NATIVE_FRAMES = 33
SIDE, TEMPORAL = 64, 4
PROMPT_STRIDE = 67
"""Coprime to the 216 prompts: neighbors in the list differ in all their words."""


@dataclass(frozen=True)
class Run:
    """One video to make.

    Attributes:
        kind: Name of the cache, or ``NATIVE``.
        prompt: The prompt.
        seed: Of the noise.
    """

    kind: str
    prompt: str
    seed: int


def main() -> None:
    """Make what is missing, then print the table of all."""
    options = _options()
    transformers.utils.logging.disable_progress_bar()
    print(machine(), flush=True)
    done = _read(options.results)
    runs = list(_runs(options.runs))
    engines: dict[str, Engine] = {}
    for number, run in enumerate(runs):
        name = _name(options, run)
        if name in done:
            continue
        if run.kind not in engines:
            engines[run.kind] = _engine(options, run.kind)
            engines[run.kind].load([_request(options, run) for run in runs])
        done[name] = _make(options, engines[run.kind], run)
        with options.results.open("a") as file:
            file.write(json.dumps({"name": name, "figures": done[name]}) + "\n")
        print(f"{number + 1}/{len(runs)} {run}: {done[name]}", file=sys.stderr, flush=True)
    _report(options, {run: done[_name(options, run)] for run in runs})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--runs", type=int, default=8, help="prompts times 2 seeds")
    parser.add_argument("--frames", type=int, default=257, help="video frames")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--block", type=int, default=6, help="latent frames")
    parser.add_argument("--context", type=int, default=6, help="latent frames")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "cache_quality.jsonl")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    weights = sorted(open_folder(options.pipeline).path.glob("*/*.safetensors"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in weights))
    options.weights = digest.hexdigest()[:12]
    return options


def _read(results: Path) -> dict[str, dict[str, float]]:
    if not results.exists():
        return {}
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
    return {line["name"]: line["figures"] for line in lines}


def _runs(count: int) -> Iterator[Run]:
    """Yield all videos of a prompt and seed one after another, so that a stop leaves pairs."""
    known, prompts = shapes.all_prompts(), (count + 1) // 2
    for index in range(count):
        prompt = known[(index % prompts) * PROMPT_STRIDE % len(known)]
        for kind in (NATIVE, *CACHES):
            yield Run(kind, prompt, seed=index // prompts)


def _name(options: argparse.Namespace, run: Run) -> str:
    settings = [options.weights, options.steps, options.guidance, run.kind, run.prompt, run.seed]
    if run.kind != NATIVE:
        settings += [options.frames, options.block, options.context]
    return "/".join(map(str, settings))


def _engine(options: argparse.Namespace, kind: str) -> Engine:
    scheduler: BlockScheduler = FullSequence()
    if kind != NATIVE:
        scheduler = FifoQueue(options.block, options.context)
    generation_config = GenerationConfig(
        pipeline=options.pipeline,
        scheduler=scheduler,
        cache=CACHES.get(kind, NoCache()),
        steps=options.steps,
        guidance_scale=options.guidance,
        dtype="float32",
    )
    return Engine(generation_config, SingleDevice())


def _request(options: argparse.Namespace, run: Run) -> Request:
    return Request(
        index=0,
        prompts=(PromptAt(at=0, text=run.prompt),),
        negative_prompt="",
        num_frames=NATIVE_FRAMES if run.kind == NATIVE else options.frames,
        height=SIDE,
        width=SIDE,
        fps=16,
        seed=run.seed,
    )


def _make(options: argparse.Namespace, engine: Engine, run: Run) -> dict[str, float]:
    start, parts = time.perf_counter(), []
    for event in engine.generate(_request(options, run)):
        if isinstance(event, FramesDecoded):
            parts.append(event.frames)
    seconds = time.perf_counter() - start
    frames = torch.cat(parts)
    seams: list[int] = []
    if run.kind != NATIVE:
        latent_frames = 1 + (options.frames - 1) // TEMPORAL
        cut = FifoQueue(options.block, options.context).blocks(latent_frames)
        seams = [1 + (block.start - 1) * TEMPORAL for block in cut if block.start]
    return {"seconds": seconds, **_judged(frames, run.prompt, seams)}


def _judged(frames: Tensor, prompt: str, seams: list[int]) -> dict[str, float]:
    judged = judge(frames)
    right, steps = judged.right(prompt).float(), judged.steps()
    ways = steps / steps.nanmedian()
    figures = {
        "right": float(right.mean()),
        "last quarter": float(right[-len(right) // 4 :].mean()),
        "ground": float(judged.right_background(prompt).float().mean()),
        "jump": float(ways.nan_to_num(0.0).max()),
        "color": judged.color_spread(),
    }
    if seams:
        at_seams = ways[torch.tensor(seams) - 1]
        figures |= {"seam": float(at_seams.nanmean()), "worst": float(at_seams.nan_to_num(0).max())}
    return figures


def _report(options: argparse.Namespace, figures: dict[Run, dict[str, float]]) -> None:
    digits = {"seam": 2, "worst": 1, "jump": 1, "color": 1, "seconds": 1}
    columns = ["right", "last quarter", "ground", *digits]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, values in figures.items():
        for column, value in values.items():
            found[run.kind][column].append(value)
    rows = [
        [kind, *(_cell(of[c], digits.get(c, 2)) for c in columns)] for kind, of in found.items()
    ]
    runs = len(figures) // (1 + len(CACHES))
    print(
        f"{runs} runs; {options.frames} video frames, {options.steps} steps, block/context "
        f"{options.block}/{options.context}, guidance {options.guidance:g}; weights "
        f"{options.weights}; mean (min to max)\n"
    )
    print(table(["", *columns], rows))


def _cell(values: list[float], digits: int) -> str:
    values = [value for value in values if not math.isnan(value)]
    return spread(values, digits) if values else "-"


if __name__ == "__main__":
    main()
