"""Measures layers of Wan 1.3B and 14B, random weights at real sizes, eager and compiled.

    python benchmarks/gpu/layers.py

The window of a NextBlockKV task: 16 frames through the layers beside 8 from the cache, 480p, both
guidance branches as one batch. Predicted at 400 TFLOP/s and 3 TB/s: 1382 ms for the 30 layers of
1.3B, 7700 ms for the 40 of 14B (bar: 25 %). Compiled layer by layer: recompilations after the first
task (bar: none), speed-up, largest error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import Run, begin, end, show


@dataclass(frozen=True, slots=True)
class Size:
    """A model.

    Args:
        name: What it is called.
        dim: Model dim.
        ffn: Width of the feed-forward part.
        heads: Attention heads.
        layers: Of the model; a few are measured.
        predicted: Milliseconds of all layers.
    """

    name: str
    dim: int
    ffn: int
    heads: int
    layers: int
    predicted: float


SIZES = (
    Size("Wan 1.3B", 1536, 8960, 12, 30, 1382.0),
    Size("Wan 14B", 5120, 13824, 40, 40, 7700.0),
)
TINY = Size("tiny", 128, 256, 2, 4, 1.0)


def layers_of(size: Size, count: int, run: Run) -> nn.ModuleList:
    """Return layers of random weights, in bf16."""
    with torch.device(run.device):
        blocks = [
            WanTransformerBlock(size.dim, size.ffn, size.heads, "rms_norm_across_heads", True)
            for _ in range(count)
        ]
    return nn.ModuleList(blocks).to(torch.bfloat16).eval()


def inputs(size: Size, run: Run) -> tuple[Any, ...]:
    """Return hidden states of a window, the prompt, the timestep and rotary positions."""
    tokens = 48 if run.tiny else 24 * 1560
    head = size.dim // size.heads
    hidden = torch.randn(2, tokens, size.dim, device=run.device, dtype=torch.bfloat16)
    text = torch.randn(2, 512, size.dim, device=run.device, dtype=torch.bfloat16)
    step = torch.randn(2, 6, size.dim, device=run.device)
    rotary = tuple(torch.ones(1, tokens, 1, head, device=run.device) for _ in range(2))
    return hidden, text, step, rotary


def through(layers: nn.ModuleList, given: tuple[Any, ...]) -> Tensor:
    """Run the layers."""
    hidden, *rest = given
    for layer in layers:
        hidden = layer(hidden, *rest)
    return hidden  # type: ignore[no-any-return]


@torch.no_grad()
def main() -> None:
    """Measure."""
    run = begin(__doc__)
    rows, passed = [], True
    for size in (TINY,) if run.tiny else SIZES:
        count = 2
        layers, given = layers_of(size, count, run), inputs(size, run)
        eager = run.seconds(lambda: through(layers, given)) * size.layers / count  # noqa: B023
        expected = through(layers, given)
        compiled = layers
        if not run.tiny:  # there may be no compiler
            made: list[Any] = [torch.compile(layer, dynamic=False) for layer in layers]
            compiled = nn.ModuleList(made)
        fast = run.seconds(lambda: through(compiled, given)) * size.layers / count  # noqa: B023
        error = (through(compiled, given) - expected).abs().max() / expected.abs().max()
        rows.append(
            [
                size.name,
                f"{1e3 * eager:.0f}",
                f"{size.predicted:.0f}",
                f"{1e3 * fast:.0f}",
                f"{float(error):.1e}",
            ]
        )
        # All tokens pass through the layers here; in a task a third of them comes from the cache.
        passed = passed and 0.75 <= 1e3 * eager / (1.5 * size.predicted) <= 1.25
    show(["model", "ms, eager", "predicted for a task", "ms, compiled", "error"], rows)
    end(run, passed, "the costs in plans are right within 25 % on this GPU")


if __name__ == "__main__":
    main()
