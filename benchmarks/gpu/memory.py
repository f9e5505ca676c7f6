"""Measures the peak memory of a run against what the plan predicts for it.

python benchmarks/gpu/memory.py --pipeline Wan-AI/Wan2.1-T2V-1.3B-Diffusers

Three blocks of a queue, two steps, 480p and 720p. Plans count weights, keys and values: what
activations and the VAE take beside them is what this shows (bar: 10 %).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import begin, end, show

from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.engine.preflight import cache_bytes, weight_bytes
from longtake.schedulers import FifoQueue
from longtake.strategies import SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder


def main() -> None:
    """Measure."""
    run = begin(__doc__)
    rows, passed = [], True
    with tempfile.TemporaryDirectory() as scratch:
        folder = run.pipeline
        if run.tiny:
            folder = str(tiny_wan_folder(Path(scratch) / "model").path)
        for height, width in ((32, 48),) if run.tiny else ((480, 832), (720, 1280)):
            config = GenerationConfig(pipeline=folder, scheduler=FifoQueue(3, 2), steps=2)
            request = Request(
                prompts=(PromptAt(text="bird"),), num_frames=21, height=height, width=width
            )
            engine = Engine(config, SingleDevice(), device=run.device)
            engine.check([request])
            workload, layout = engine.chosen.workload, engine.chosen.layout
            predicted = weight_bytes(workload, layout, 0, None)
            predicted += cache_bytes(workload, layout, 0)
            peak = run.peak(lambda: list(engine.generate(request)))  # noqa: B023
            rows.append([f"{height} x {width}", f"{predicted / 1e9:.3f}", f"{peak / 1e9:.3f}"])
            passed = passed and abs(peak / max(predicted, 1) - 1) <= 0.1
    show(["size", "predicted, GB", "peak, GB"], rows)
    end(run, passed, "the memory in plans is right within 10 %")


if __name__ == "__main__":
    main()
