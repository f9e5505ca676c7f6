"""Measures what the rendezvous of transfers costs: a message between ranks, and simulated runs.

    OMP_NUM_THREADS=1 python benchmarks/rendezvous.py

A small message one way between two gloo ranks, alternating: over gloo alone, and over the
rendezvous with emulated devices (three words of gloo's and a message). Then DualParal on H100s in
the simulator, each message so much later: bar, 1 %.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, middle, table
from benchmarks.wan_workloads import workload_of

from longtake.caches import NextBlockKV
from longtake.comm.gloo import GlooTransport
from longtake.comm.p2p import Channel, Delivery
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import bounded, simulate
from longtake.schedulers import FifoQueue
from longtake.strategies import Communicator, DualParal
from longtake.testing.cuda_rules.device import EmulatedDevice
from longtake.testing.cuda_rules.transport import EmulatedTransport
from longtake.testing.ranks import RankPool

TURNS: Final = 200
COSTS: Final = (2e-4, 2e-3)
RUNS: Final = (("14B", 8, 50, 16), ("1.3B", 8, 50, 16), ("1.3B", 4, 8, 32))
"""Model, devices, steps, blocks."""


def one_way(communicator: Communicator) -> dict[str, list[float]]:
    """Return the microseconds of messages, one way, by transport."""
    device = EmulatedDevice(patience=60.0)
    made = {"gloo": GlooTransport(), "rendezvous": EmulatedTransport(device)}
    channels = {name: (one.channel(), one.channel()) for name, one in made.items()}
    took: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(TURNS):
        for name, pair in channels.items():
            took[name].append(1e6 * to_and_fro(communicator.rank, *pair) / 2)
    device.close()
    return took


def to_and_fro(rank: int, there: Channel, back: Channel) -> float:
    """Send a message to rank 1 and one back; return the seconds."""
    taken, given = torch.empty(16), torch.zeros(16)
    turns: tuple[Callable[[], Delivery], Callable[[], Delivery]] = (
        (lambda: there.send(given, 1), lambda: back.post(taken, 1))
        if rank == 0
        else (lambda: there.post(taken, 0), lambda: back.send(given, 0))
    )
    start = time.perf_counter()
    for turn in turns:
        delivery = turn()
        while not delivery.wait(1.0):
            pass
    return time.perf_counter() - start


def makespans() -> list[list[str]]:
    """Return rows of simulated runs whose messages take longer."""
    rows, hardware = [], profile("H100")
    for name, devices, steps, blocks in RUNS:
        workload = workload_of(
            name, hardware, 8 * blocks, steps, FifoQueue(8, 8), NextBlockKV(), branches=2
        )
        strategy = DualParal(stages=devices, cfg=1, guidance="together", decode_devices=0)
        layout = strategy.layout(devices, workload)
        seconds = []
        for cost in (0.0, *COSTS):
            late = replace(hardware, latency=hardware.latency + cost)
            job = bounded(replace(workload, hardware=late), blocks)
            seconds.append(simulate(layout, job, strategy.actions).makespan)
        longer = (f"+{100 * (one / seconds[0] - 1):.2f} %" for one in seconds[1:])
        run = f"{name}, {devices} x H100, {steps} steps, {blocks} blocks"
        rows.append([run, f"{seconds[0]:.1f}", *longer])
    return rows


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    pool = RankPool(2, timeout=300.0)
    took = pool.run(one_way)[0]
    pool.close()
    print(table(["a small message over", "us"], [[n, middle(one, 0)] for n, one in took.items()]))
    header = ["run", "s", *(f"{1e3 * cost:.1f} ms later" for cost in COSTS)]
    print("\n" + table(header, makespans()))


if __name__ == "__main__":
    main()
