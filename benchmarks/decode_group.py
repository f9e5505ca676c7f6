"""Measures the decode group (``decode_devices``) against decoding on the ranks that denoise.

    python benchmarks/decode_group.py

Whole engine runs, weights from disk to video frames, of a random-weight Wan in two sizes: *VAE*,
where decoding a video takes about as long as denoising it, and *DiT*, where it takes far less. One
long video, or several of the same length in all. Alternating in one run, one thread per rank:

- *one device*: denoises and decodes, a block at a time;
- *stages*: ``DualParal`` on all ranks, the first of which decodes between tasks;
- *group*: on as many ranks, one decodes and the others denoise;
- *ceiling*: two runs of *one device* at once, over one: what this machine gives two processes.

All must give the same frames, byte by byte. Beside every measured ratio stands the simulator's,
whose two speeds (denoising, decoding) are those of *one device*. It gives each rank a core. Where
ranks are more than this machine's cores, another one follows, of what each way takes at least here:
no less than its ranks' work over the cores.

The first frames: when the output rank had one, when the first block was denoised and how long its
decoding took. Memory: the peak of the output rank for two lengths, in ranks of their own, with
glibc told to give memory back (``benchmarks/common.py``); few steps, so that decoding lags behind
and the mesh has to wait for it. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import STEADY_ALLOCATOR, growth, machine, megabytes, middle, table
from benchmarks.decode_group_runs import (
    BLOCK,
    SETTINGS,
    SIDE,
    STEPS,
    TWICE,
    WAYS,
    Run,
    Way,
    recipe_of,
    requests_of,
    run,
    save_model,
    took,
)

from longtake.framework import Engine, GenerationConfig
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import Simulation, simulate
from longtake.plan.devices import Hardware
from longtake.plan.search.decoders import seconds_of
from longtake.strategies import SingleDevice
from longtake.testing.ranks import RankPool

LENGTHS: Final = {"1 video": [48], "4 videos": [12] * 4}
"""Latent frames of the videos of a run."""
UNIT: Final = Hardware(
    name="one operation a second",
    matmul=1.0,
    convolution=1.0,
    bandwidth=1e9,
    latency=0.0,
    launch=0.0,
    memory=1e12,
)


def simulated(
    generation_config: GenerationConfig,
    way: Way,
    lengths: list[int],
    hardware: Hardware,
    speeds: Hardware,
) -> Simulation:
    """Return what the simulator says of a run that was laid out for ``hardware``."""
    engine = Engine(generation_config, way.strategy, world_size=way.ranks, hardware=hardware)
    engine.check(requests_of(lengths))
    workload = replace(engine.chosen.counted_workload(), hardware=speeds)
    return simulate(engine.chosen.layout, workload, way.strategy.actions)


def measured_hardware(
    generation_config: GenerationConfig, lengths: list[int], alone: Run
) -> Hardware:
    """Return the hardware on which one device takes what it was measured to take.

    Links are those of ``plan/cost/profiles.py`` for gloo: tasks take so long that they hardly
    count.
    """
    engine = Engine(generation_config, SingleDevice(), hardware=UNIT)
    engine.check(requests_of(lengths))
    decode, denoise = (len(lengths) * part for part in seconds_of(engine.chosen.counted_workload()))
    return replace(
        profile("cpu"),
        matmul=denoise / alone.denoise,
        convolution=decode / alone.decode,
        launch=0.0,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one setting and kind of videos.

    Args:
        runs: Of each way, the rounds; each with its ranks.
        simulations: Of each way.
    """

    runs: dict[str, list[list[Run]]]
    simulations: dict[str, Simulation]

    def ratios(self, slower: str, faster: str) -> list[float]:
        """Return how much faster one way was than another, round by round."""
        pairs = zip(self.runs[slower], self.runs[faster], strict=True)
        return [took(one) / took(other) for one, other in pairs]

    def predicted(self, slower: str, faster: str) -> str:
        """Return the simulator's ratio, and the best one on this machine's cores."""
        cores = psutil.cpu_count() or 1
        one, other = (self.simulations[name] for name in (slower, faster))
        words = f"{one.makespan / other.makespan:.2f}"
        if max(len(one.busy), len(other.busy)) > cores:
            least = [max(sim.makespan, sum(sim.busy) / cores) for sim in (one, other)]
            words += f" ({cores} cores: {least[0] / least[1]:.2f})"
        return words


def measure(
    pools: dict[int, RankPool], generation_config: GenerationConfig, lengths: list[int], rounds: int
) -> Measured:
    """Run every way in turn, after a round that warms up and tells how fast the machine is."""
    first = WAYS[0]
    for way in WAYS:
        run(pools[max(2, way.ranks)], generation_config, way, [2 * BLOCK], None)
    (alone,) = run(pools[2], generation_config, first, lengths, None)
    hardware = measured_hardware(generation_config, lengths, alone)
    runs: dict[str, list[list[Run]]] = defaultdict(list)
    for _ in range(rounds):
        for way in (*WAYS, TWICE):
            ranks = run(pools[max(2, way.ranks)], generation_config, way, lengths, hardware)
            assert ranks[0].frames == alone.frames, f"{way.name}: not the same frames"
            runs[way.name].append(ranks)
    alones = sorted((ranks[0] for ranks in runs[first.name]), key=lambda one: one.stop - one.start)
    speeds = measured_hardware(generation_config, lengths, alones[len(alones) // 2])
    simulations = {
        way.name: simulated(generation_config, way, lengths, hardware, speeds) for way in WAYS
    }
    return Measured(runs, simulations)


def ratio_rows(name: str, videos: str, measured: Measured) -> list[list[str]]:
    """Return the rows of the table of ratios: one for each number of ranks."""
    alone, rows = WAYS[0].name, []
    share = median(one.decode / (one.denoise + one.decode) for (one,) in measured.runs[alone])
    for inline, group in ((WAYS[1], WAYS[2]), (WAYS[3], WAYS[4])):
        ceiling = [2 * ratio for ratio in measured.ratios(alone, TWICE.name)]
        row = [name, f"{100 * share:.0f} %", videos, str(group.ranks), middle(ceiling)]
        for slower, faster in (
            (alone, inline.name),
            (alone, group.name),
            (inline.name, group.name),
        ):
            row += [middle(measured.ratios(slower, faster))]
            row += [measured.predicted(slower, faster)]
        rows.append(row)
    return rows


def first_rows(name: str, measured: Measured) -> list[list[str]]:
    """Return the rows of the table of first frames: one for each way."""
    rows = []
    for way in WAYS:
        runs = measured.runs[way.name]
        block = median(ranks[0].first_block - ranks[0].start for ranks in runs)
        decode = median(sum(one.block_decode for one in ranks) for ranks in runs)
        frame = median(ranks[0].first_frame - ranks[0].start for ranks in runs)
        whole = median(took(ranks) for ranks in runs)
        seconds = (block, decode, block + decode, frame, whole)
        rows.append([name, way.name, *(f"{value:.2f}" for value in seconds)])
    return rows


def memory_rows(frames: list[int], repeats: int) -> list[list[str]]:
    """Return the rows of the table of memory: one for each length, in latent frames."""
    setting, way = SETTINGS[0], WAYS[2]
    peaks: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        save_model(setting, Path(folder))
        for _ in range(repeats):
            for count in frames:
                pool = RankPool(way.ranks, timeout=600)
                (output, _) = run(pool, recipe_of(folder, steps=2), way, [count], None)
                pool.close()
                peaks[count].append(output.peak)
    short, long = frames
    rows = [[f"{1 + 4 * (count - 1)} frames", megabytes(peaks[count])] for count in frames]
    rows.append(["growth", growth(peaks[short], peaks[long])])
    further = (median(peaks[long]) - median(peaks[short])) / (4 * (long - short))
    rows.append(["bytes per further frame", f"{further:,.0f} (a raw one has {3 * SIDE**2:,})"])
    return rows


def main() -> None:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs=2, metavar=("A", "B"), help="only this part")
    options = parser.parse_args()
    if options.memory:  # a process of its own: its ranks need glibc's settings from the start
        rows = memory_rows(options.memory, options.rounds)
        print(table(["a video of", "peak of the output rank, MB"], rows))
        return
    os.environ["TQDM_DISABLE"] = "1"  # in the ranks
    print(machine(), flush=True)
    print(f"{STEPS} steps, blocks of {BLOCK} latent frames; medians of {options.rounds} rounds\n")
    pools = {count: RankPool(count, timeout=600) for count in (2, 3)}
    ratios, firsts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            path = Path(folder) / setting.name
            save_model(setting, path)
            for videos, lengths in LENGTHS.items():
                measured = measure(pools, recipe_of(str(path)), lengths, options.rounds)
                ratios += ratio_rows(setting.name, videos, measured)
                if len(lengths) == 1:
                    firsts += first_rows(setting.name, measured)
    for pool in pools.values():
        pool.close()
    header = ["heavy", "decoding", "made", "ranks", "ceiling"]
    for ratio in ("stages over one device", "group over one device", "group over stages"):
        header += [ratio, "simulated"]
    print(table(header, ratios))
    print("\nThe first frames of one video, seconds\n")
    header = ["heavy", "ranks", "first block denoised", "its decoding", "sum", "first frame"]
    print(table([*header, "whole video"], firsts))
    print("\nMemory\n", flush=True)
    command = [sys.executable, __file__, "--memory", "16", "128", "--rounds", "2"]
    subprocess.run(command, env=os.environ | STEADY_ALLOCATOR, check=True)


if __name__ == "__main__":
    main()
