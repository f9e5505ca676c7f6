"""Compares predictions of time and memory with measurements, after a calibration of this machine.

    python benchmarks/prediction.py

Whole engine runs of a random-weight Wan (dim 768, 6 layers) in float32, one thread per rank: one
device, 2 stages (``DualParal``) and 2 Ulysses ranks, each with and without a decode rank, with
three feature caches. The prediction knows the model's structure, the layout, and what
``longtake calibrate`` measures (by CPU time, on one thread): nothing is fitted to a run. It is
measured by the ranks themselves, all at once, before the runs of each way: so what ranks take from
one another, and what their allocator costs, is in it.

Where other work shares the cores a run's wall time says little, and a core's own speed changes with
what its other thread does. So the first comparison is of CPU seconds: all ranks' predicted seconds
of computing and decoding against their processes' CPU time, the prediction scaled by how fast a
rank multiplied right before and after its run, over how fast it did in the calibration.
Memory is the output rank's growth from before its weights are read to its peak, glibc told to give
memory back (``benchmarks/common.py``). Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import NOW, PEAK, STEADY_ALLOCATOR, machine, reset_peak, resident, table
from benchmarks.decode_group_runs import Setting, Way, recipe_of, requests_of, save_model, stages

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.framework import Engine, GenerationConfig, Request
from longtake.framework.engine.calibration import calibrate
from longtake.plan.cost.calibrated import calibration_text, read_calibration
from longtake.plan.cost.simulator import Simulation
from longtake.plan.devices import Hardware
from longtake.strategies import Communicator, SequenceParallel, SingleDevice
from longtake.testing.ranks import RankPool

SIZE: Final = Setting(name="wide", heads=24, vae=32)
FRAMES, STEPS, SIDE = 12, 2, 128
"""Latent frames of the video (blocks of 8 and 4), denoising steps, pixels of a picture's side."""
ROWS: Final = 2048
CACHES: Final[tuple[FeatureCache, ...]] = (NextBlockKV(), SameStepKV(), NoCache())


def ulysses(decoders: int = 0) -> SequenceParallel:
    """Return two ranks that exchange tokens for heads."""
    return SequenceParallel(ulysses=2, ring=1, cfg=1, decode_devices=decoders)


WAYS: Final = (
    Way("one device", 1, SingleDevice()),
    Way("one device, decode rank", 2, SingleDevice(decode_devices=1)),
    Way("2 stages", 2, stages(2)),
    Way("2 stages, decode rank", 3, stages(2, decoders=1)),
    Way("Ulysses 2", 2, ulysses()),
    Way("Ulysses 2, decode rank", 3, ulysses(1)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a rank measured: seconds of wall and of CPU, bytes, and operations per CPU second."""

    wall: float
    cpu: float
    grown: int
    rate: float


@torch.no_grad()
def make(
    communicator: Communicator, config: GenerationConfig, way: Way, hardware: Hardware
) -> Measured | None:
    """Make the video as one of the ranks; ``None`` on those that are left out."""
    if communicator.rank >= way.ranks:
        return None
    engine = Engine(
        config, way.strategy, world_size=way.ranks, rank=communicator.rank, hardware=hardware
    )
    requests = videos()
    engine.check(requests)
    if way.ranks > 1:
        engine.join(communicator)
    rates = [multiplied()]
    reset_peak()
    before = resident(NOW)
    engine.load(requests)
    if way.ranks > 1:
        communicator.gather("loaded")
    wall, cpu = time.perf_counter(), time.process_time()
    for request in requests:
        for _ in engine.generate_ahead(request):
            pass
    for _ in engine.finish():
        pass
    found = time.perf_counter() - wall, time.process_time() - cpu, resident(PEAK) - before
    rates.append(multiplied())
    return Measured(wall=found[0], cpu=found[1], grown=found[2], rate=sum(rates) / 2)


def multiplied() -> float:
    """Return operations per CPU second of products as large as those of the calibration."""
    left, right, done = torch.ones(ROWS, 1536), torch.ones(1536, 6144), 0
    begun = time.process_time()
    while time.process_time() - begun < 0.5:
        left @ right
        done += 1
    return done * 2 * ROWS * 1536 * 6144 / (time.process_time() - begun)


def videos() -> list[Request]:
    """Return the video that is made."""
    return [replace(one, height=SIDE, width=SIDE) for one in requests_of([FRAMES])]


def predicted(config: GenerationConfig, way: Way, hardware: Hardware) -> tuple[Simulation, int]:
    """Return what a run would take, and the output rank's bytes."""
    engine = Engine(config, way.strategy, world_size=way.ranks, hardware=hardware)
    engine.check(videos())
    workload, layout = engine.chosen.counted_workload(), engine.chosen.layout
    held = engine.chosen.memory.of(workload, layout)[layout.output_rank]
    return way.strategy.clock(workload)(layout), held.peak


def measured_by(communicator: Communicator, way: Way) -> Hardware | None:
    """Return this machine as a way's ranks measure it at the same time, each on one thread."""
    return None if communicator.rank >= way.ranks else here()


def here() -> Hardware:
    """Return this machine, measured on one thread."""
    torch.set_num_threads(1)
    text = calibration_text(*calibrate(torch.device("cpu"), time.process_time))
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "hardware.yaml").write_text(text, encoding="utf-8")
        return read_calibration(file, torch.float32)


def mean(found: Sequence[Hardware]) -> Hardware:
    """Return a machine on which every rank is as fast as those that measured are on the mean."""
    names = [one.name for one in fields(Hardware) if isinstance(getattr(found[0], one.name), float)]
    means: Any = {name: fmean(getattr(one, name) for one in found) for name in names}
    return replace(found[0], **means)


def off(predicted: float, measured: float) -> str:
    """Return by how much a prediction is off."""
    return f"{100 * (predicted / measured - 1):+.0f} %"


def row(
    way: Way,
    cache: FeatureCache,
    said: tuple[Simulation, int],
    runs: Sequence[list[Measured]],
    hardware: Hardware,
) -> list[str]:
    """Return the table's row of a way."""
    simulation, size = said
    cpu = median(sum(rank.cpu for rank in ranks) for ranks in runs)
    wall = median(max(rank.wall for rank in ranks) for ranks in runs)
    grown = median(ranks[0].grown for ranks in runs)
    rate = median(rank.rate for ranks in runs for rank in ranks)
    slower = hardware.rate(ROWS) / rate
    busy = slower * sum(simulation.busy)
    return [
        way.name,
        type(cache).__name__,
        f"{busy:.2f}",
        f"{cpu:.2f}",
        off(busy, cpu),
        f"{slower * simulation.makespan:.2f}",
        f"{wall:.2f}",
        f"{size / 1e6:.0f}",
        f"{grown / 1e6:.0f}",
        off(size, grown),
    ]


def main() -> None:
    """Run every way with every cache, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ |= {"TQDM_DISABLE": "1", **STEADY_ALLOCATOR}  # in the ranks
    print(machine(), flush=True)
    machines: dict[str, Hardware] = {}
    pools = {count: RankPool(count, timeout=600) for count in (2, 3)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(SIZE, Path(folder))
        for cache in CACHES:
            for way in WAYS:
                config = replace(recipe_of(folder, STEPS), cache=cache)
                pool = pools[max(2, way.ranks)]
                if way.name not in machines:
                    found = [one for one in pool.run(measured_by, way) if one is not None]
                    machines[way.name] = mean(found)
                    print(f"{os.getloadavg()[0]:.1f} load", machines[way.name], flush=True)
                hardware = machines[way.name]
                done = [pool.run(make, config, way, hardware) for _ in range(rounds)]
                runs = [[rank for rank in ranks if rank is not None] for ranks in done]
                rows.append(row(way, cache, predicted(config, way, hardware), runs, hardware))
                print(*rows[-1], sep=" | ", flush=True)
    for pool in pools.values():
        pool.close()
    header = ["run", "cache", "CPU s predicted", "measured", "off", "wall s predicted", "measured"]
    print(table([*header, "MB predicted", "measured", "off"], rows))


if __name__ == "__main__":
    main()
