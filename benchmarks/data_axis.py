"""Compares the makespan of replicas (`data: 2`) with the planned one, and their videos with one's.

    python benchmarks/data_axis.py

Five requests of unequal length on a random-weight Wan (dim 192, 6 layers) in float32, one thread
per rank: by one device, by 2 replicas of 1 device, and with `--stages 2` by 2 replicas of 2 stages.
Who makes what is planned from this machine's calibration, one thread, of CPU time. What a core does
beside others is not in it, so the plan is scaled: by what one device took for all five over what
was predicted for it, in wall and in CPU seconds. Where other work takes the cores, the wall's ratio
says little, and that of CPU seconds what the plan is worth: a replica of one device does nothing
but compute. With stages only the wall's is of the plan: stages wait. The videos must have the bytes
of one device, or it ends with an error.

2 replicas of 1 device need 2 cores that do nothing else; 2 x 2 stages need 4, and on fewer they say
what the cores are shared for, nothing about the plan. The load is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table
from benchmarks.decode_group_runs import Setting, recipe_of, requests_of, save_model
from benchmarks.prediction import here

from longtake.framework import Engine, FramesDecoded, GenerationConfig, Request
from longtake.plan.devices import Hardware
from longtake.strategies import Communicator, DualParal, ParallelStrategy, SingleDevice
from longtake.testing.ranks import RankPool

SIZE: Final = Setting(name="data axis", heads=6, vae=8)
FRAMES: Final = (8, 24, 12, 8, 20)
"""Latent frames of the requests."""
SIDE: Final = 64
"""Pixels of a picture's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a rank made.

    Args:
        seconds: Until its replica was done, all ranks having begun together.
        cpu: Of its process, until then.
        whole: Until all were.
        videos: Hashes of the videos that came out here, by request.
    """

    seconds: float
    cpu: float
    whole: float
    videos: dict[int, str]


def videos() -> list[Request]:
    """Return what is made."""
    return [
        replace(one, index=index, height=SIDE, width=SIDE)
        for index, one in enumerate(requests_of(list(FRAMES)))
    ]


def engine_of(
    config: GenerationConfig, strategy: ParallelStrategy, hardware: Hardware, ranks: int, rank: int
) -> Engine:
    """Return a rank's engine, the requests checked."""
    engine = Engine(config, strategy, world_size=ranks, rank=rank, hardware=hardware)
    engine.check(videos())
    return engine


@torch.no_grad()
def make(
    communicator: Communicator,
    config: GenerationConfig,
    strategy: ParallelStrategy,
    ranks: int,
    hardware: Hardware,
) -> Made | None:
    """Make the videos as one of the ranks; ``None`` on those that are left out."""
    if communicator.rank >= ranks:
        return None
    engine = engine_of(config, strategy, hardware, ranks, communicator.rank)
    if ranks > 1:
        engine.join(communicator)
    engine.load(videos())
    if ranks > 1:
        communicator.gather("loaded")
    begun, cpu, found = time.perf_counter(), time.process_time(), dict[int, str]()
    for request in videos():
        seen = hashlib.blake2b()
        frames = 0
        for event in engine.generate(request):
            if isinstance(event, FramesDecoded):
                frames += len(event.frames)
                seen.update(event.frames.numpy().tobytes())
        if frames:
            found[request.index] = seen.hexdigest()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    engine.leave("")
    return Made(seconds=seconds, cpu=cpu, whole=time.perf_counter() - begun, videos=found)


def main() -> None:
    """Run every way, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", type=int, default=1, help="of each replica")
    options = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1"}  # in the ranks
    hardware, ranks = here(), 2 * options.stages
    print(machine(), f"\nload {os.getloadavg()[0]:.1f}\n", flush=True)
    parallel: ParallelStrategy = SingleDevice(data=2)
    if options.stages > 1:
        parallel = DualParal(
            stages=options.stages, cfg=1, guidance="together", decode_devices=0, data=2
        )
    pools = {count: RankPool(count, timeout=900) for count in (1, ranks)}
    with tempfile.TemporaryDirectory() as folder:
        save_model(SIZE, Path(folder))
        config = recipe_of(folder)
        runs: dict[int, list[list[Made]]] = {1: [], ranks: []}
        for count, strategy in [(1, SingleDevice()), (ranks, parallel)] * options.rounds:
            done = pools[count].run(make, config, strategy, count, hardware)
            runs[count].append([one for one in done if one is not None])
            print(f"{count} ranks: {runs[count][-1][0].whole:.2f} s", file=sys.stderr, flush=True)
        replicas = engine_of(config, parallel, hardware, ranks, 0).chosen.replicas
        alone = engine_of(config, SingleDevice(data="auto"), hardware, 2, 0).chosen.divisions
    for pool in pools.values():
        pool.close()
    hashes = [{k: v for rank in ranks for k, v in rank.videos.items()} for ranks in all_of(runs)]
    if any(one != hashes[0] for one in hashes):
        raise SystemExit("the videos differ from those of one device")
    predicted = sum(alone[-1].replicas.seconds)
    serial = [median(getattr(one[0], kind) for one in runs[1]) for kind in ("whole", "cpu")]
    rows = []
    for number, share in enumerate(replicas.shares):
        ranks_of = range(number * options.stages, (number + 1) * options.stages)
        wall = median(max(one[rank].seconds for rank in ranks_of) for one in runs[ranks])
        cpu = median(sum(one[rank].cpu for rank in ranks_of) for one in runs[ranks])
        name = f"replica {number}: requests {', '.join(map(str, share))}"
        said = replicas.seconds[number] / predicted
        rows.append([name, *compared(said * serial[0], wall), *compared(said * serial[1], cpu)])
    wall = median(one[0].whole for one in runs[ranks])
    cpu = median(max(rank.cpu for rank in one) for one in runs[ranks])
    said = max(replicas.seconds) / predicted
    rows.append(["makespan", *compared(said * serial[0], wall), *compared(said * serial[1], cpu)])
    rows.insert(0, ["one device, all five", "", f"{serial[0]:.2f}", "", "", f"{serial[1]:.2f}", ""])
    print(table(["", "wall s, planned", "measured", "x", "CPU s, planned", "measured", "x"], rows))
    print(
        f"\n{serial[0] / wall:.2f} times as fast as one device; load {os.getloadavg()[0]:.1f}; the "
        f"videos are those of one device, to the byte"
    )


def compared(planned: float, measured: float) -> list[str]:
    """Return a planned figure, the measured one, and how often that is the planned one."""
    return [f"{planned:.2f}", f"{measured:.2f}", f"{measured / planned:.2f}"]


def all_of(runs: dict[int, list[list[Made]]]) -> list[list[Made]]:
    """Return all runs, those of one device first."""
    return [one for count in sorted(runs) for one in runs[count]]


if __name__ == "__main__":
    main()
