"""Simulates the end-to-end table of PipeDiT (arXiv 2511.12056, Table 6): 10 clips of 97 frames.

    python benchmarks/pipedit_table6.py

Nothing runs, and nothing is tuned to the table but one constant, in a column of its own. The paper
compares two ways to use 8 GPUs, with Open-Sora-Plan 1.3 2B (Ulysses) and HunyuanVideo 13B (USP):

- *base*: all 8 denoise, models move between CPU and GPU for every clip. Our model of it: the inline
  run (below), and for each clip the weights of text encoder, transformer and VAE in 2 bytes, to the
  GPU and back. *PCIe*: at the data sheet's PCIe 4.0 with 16 lanes, 75 % of it. *fitted*: at the
  speed that gives the paper's figure for HunyuanVideo on A6000, 480x352, 10 steps, and that alone.
- *pipe*: DeDiVAE, PipeSP and attention co-processing. Ours: ``decode_devices`` and ``overlap`` of
  ``SequenceParallel``; the number of decode ranks (1 to 3) and the mesh that the simulator finds
  fastest. Co-processing is not simulated. The paper does not say how it split the GPUs.
- *inline*: base without moving anything, as if all of it had room: what decode ranks themselves
  are worth.

Peaks are those of ``plan/cost/profiles.py`` (half of the bf16 peak for products; its 40 % for
convolutions, here of the same peak: both models run their VAE in half precision, longtake in fp32).
Operations: HunyuanVideo's VAE is counted on the meta device, tile by tile as diffusers cuts it; its
layers are ``24 M^2`` per token (dual and single ones alike, text included) and attention. For
Open-Sora-Plan's wavelet VAE the convolutions of its published structure are added up by hand, norms
and attention left out; its 28 sparse layers attend to a quarter of the keys. Text encoding is
free.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table
from benchmarks.pipedit_models import (
    CLIPS,
    GPUS,
    HALF,
    HUNYUAN_VIDEO,
    OPEN_SORA_PLAN,
    VIDEO_FRAMES,
    WEIGHTS,
    workload_of,
)

from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import simulate
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import choose
from longtake.plan.search.meshes import Asked
from longtake.strategies import SequenceParallel

SCHEDULE = SequenceParallel().actions
CLOCK = SequenceParallel().clock
DEVICES, STEPS, MOST_DECODERS = 8, (10, 30, 50), 3
PUBLISHED: Final = {
    (OPEN_SORA_PLAN, "A6000"): {
        (480, 352): (2.12, 1.38, 1.24),
        (640, 352): (1.90, 1.34, 1.22),
        (800, 592): (1.31, 1.15, 1.13),
        (1024, 576): (1.29, 1.19, 1.18),
    },
    (OPEN_SORA_PLAN, "L40"): {
        (480, 352): (1.64, 1.21, 1.12),
        (640, 352): (1.47, 1.19, 1.11),
        (800, 592): (1.25, 1.12, 1.08),
        (1024, 576): (1.24, 1.12, 1.09),
    },
    (HUNYUAN_VIDEO, "A6000"): {
        (480, 352): (3.27, 1.72, 1.33),
        (640, 352): (3.10, 1.63, 1.26),
        (800, 592): (2.14, 1.26, 1.09),
        (1024, 576): (1.92, 1.22, 1.08),
    },
    (HUNYUAN_VIDEO, "L40"): {
        (480, 352): (2.95, 1.53, 1.26),
        (640, 352): (2.58, 1.46, 1.22),
        (800, 592): (1.84, 1.22, 1.09),
        (1024, 576): (1.68, 1.18, 1.08),
    },
}
"""The paper's speed-ups of pipe over base: width and height, then 10, 30 and 50 steps."""
PUBLISHED_SECONDS: Final = {
    (OPEN_SORA_PLAN, (480, 352)): ((227, 107), (420, 304), (622, 502)),
    (OPEN_SORA_PLAN, (1024, 576)): ((555, 430), (1360, 1144), (2162, 1832)),
    (HUNYUAN_VIDEO, (480, 352)): ((540, 165), (767, 445), (965, 726)),
    (HUNYUAN_VIDEO, (1024, 576)): ((1399, 729), (2545, 2090), (3726, 3453)),
}
"""The paper's seconds of base and pipe on A6000."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the paper, and what the simulator makes of it.

    Args:
        model: Which one.
        gpu: Its name in the paper.
        size: Width and height in pixels.
        steps: Denoising steps.
        published: The paper's speed-up.
        inline: Simulated seconds without decode ranks, nothing moved.
        pipe: Simulated seconds with them.
        layout: With them.
        moved: Seconds in which the weights go to the GPU and back, for all clips, by data sheet.
    """

    model: str
    gpu: str
    size: tuple[int, int]
    steps: int
    published: float
    inline: float
    pipe: float
    layout: Layout
    moved: float

    def speedup(self, slower: float = 1.0) -> float:
        """Return that of pipe over base, where the host link is so much slower than its sheet."""
        return (self.inline + slower * self.moved) / self.pipe

    def slower(self) -> float:
        """Return by how much it would have to be slower to give the paper's figure."""
        return (self.published * self.pipe - self.inline) / self.moved


@cache
def layout_of(model: str, gpu: str, size: tuple[int, int], decoders: int) -> Layout:
    """Return how the other ranks share a clip's tokens: as in the paper, or the fastest way."""
    free = Asked(stages=1, cfg=1, ring=None, ulysses=None, together=True, chunks=None)
    asked = free if decoders else replace(free, chunks=1)
    if model == OPEN_SORA_PLAN and not decoders:
        asked = replace(asked, ring=1, ulysses=DEVICES)
    workload = workload_of(model, gpu, size, steps=2)
    best = choose(DEVICES - decoders, replace(workload, requests=1), CLOCK, asked).best
    return replace(best.layout, decoders=decoders)


def row_of(model: str, gpu: str, size: tuple[int, int], steps: int, published: float) -> Row:
    """Return a row of the table."""
    workload = workload_of(model, gpu, size, steps)
    layouts = [layout_of(model, gpu, size, count) for count in range(MOST_DECODERS + 1)]
    inline, *apart = (simulate(layout, workload, SCHEDULE).makespan for layout in layouts)
    pipe = min(apart)
    moved = CLIPS * 2 * HALF * WEIGHTS[model] / workload.hardware.bandwidth
    layout = layouts[1 + apart.index(pipe)]
    return Row(model, gpu, size, steps, published, inline, pipe, layout, moved)


def words(layout: Layout) -> str:
    """Return how the ranks are used."""
    mesh = layout.mesh
    degrees = {"ring": mesh.ring, "ulysses": mesh.ulysses}
    parts = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
    parts += [f"overlap {layout.chunks}"] * (layout.chunks > 1)
    return f"{' x '.join(parts)} + {layout.decoders}"


def cells(row: Row, slower: float) -> list[str]:
    """Return a row of the printed table."""
    sheet, fitted = row.speedup(), row.speedup(slower)
    return [
        f"{row.model}, {row.gpu}",
        "x".join(map(str, row.size)),
        str(row.steps),
        words(row.layout),
        f"{row.inline / row.pipe:.2f}",
        f"{row.published:.2f}",
        f"{sheet:.2f}",
        f"{100 * (sheet / row.published - 1):+.0f} %",
        f"{fitted:.2f}",
        f"{100 * (fitted / row.published - 1):+.0f} %",
    ]


def summary(rows: list[Row], slower: float) -> list[list[str]]:
    """Return how far ours are from the paper's, for each model and GPU and for all."""
    groups: dict[str, list[Row]] = {f"{model}, {gpu}": [] for model, gpu in PUBLISHED} | {
        "all": rows
    }
    for row in rows:
        groups[f"{row.model}, {row.gpu}"].append(row)
    lines = []
    for name, some in groups.items():
        line = [name, str(len(some))]
        for scale in (1.0, slower):
            off = [row.speedup(scale) / row.published - 1 for row in some]
            close = sum(abs(one) <= 0.1 for one in off)
            distance = median(map(abs, off))
            line += [f"{100 * distance:.0f} %", f"{100 * mean(off):+.0f} %", str(close)]
        lines.append(line)
    return lines


def seconds_rows(rows: list[Row], slower: float) -> list[list[str]]:
    """Return simulated seconds beside those that the paper has, where we know them."""
    lines = []
    for row in rows:
        known = PUBLISHED_SECONDS.get((row.model, row.size)) if row.gpu == "A6000" else None
        if known is None:
            continue
        base, pipe = known[STEPS.index(row.steps)]
        ours = row.inline + slower * row.moved
        lines.append(
            [
                row.model,
                "x".join(map(str, row.size)),
                str(row.steps),
                *(f"{value:.0f}" for value in (base, ours, pipe, row.pipe)),
                f"{ours / base:.2f}",
                f"{row.pipe / pipe:.2f}",
            ]
        )
    return lines


def main() -> None:
    """Print the tables."""
    print(machine())
    rows = [
        row_of(model, gpu, size, steps, speedup)
        for (model, gpu), sizes in PUBLISHED.items()
        for size, speedups in sizes.items()
        for steps, speedup in zip(STEPS, speedups, strict=True)
    ]
    fitted_on = next(row for row in rows if row.model == HUNYUAN_VIDEO)
    slower = fitted_on.slower()
    link = profile(GPUS["A6000"]).bandwidth
    print(
        f"\nSpeed-up over {CLIPS} clips of {VIDEO_FRAMES} frames. Host link: {link / 1e9:.0f} GB/s "
        f"(PCIe), {link / slower / 1e9:.2f} GB/s (fitted on {fitted_on.model}, {fitted_on.gpu}, "
        f"{'x'.join(map(str, fitted_on.size))}, {fitted_on.steps} steps)\n"
    )
    header = [
        *("model, 8 GPUs", "size", "steps", "ours: ranks + decode ranks", "over inline"),
        *("paper", "PCIe", "off by", "fitted", "off by"),
    ]
    print(table(header, [cells(row, slower) for row in rows]))
    print("\nHow far from the paper\n")
    header = ["", "figures"]
    for name in ("PCIe", "fitted"):
        header += [f"{name}: median distance", "mean", "within 10 %"]
    print(table(header, summary(rows, slower)))
    print("\nSeconds of 10 clips on A6000; base with the fitted host link\n")
    header = ["model", "size", "steps", "base, paper", "base, ours", "pipe, paper", "pipe, ours"]
    print(table([*header, "base: ours over paper's", "pipe"], seconds_rows(rows, slower)))


if __name__ == "__main__":
    main()
