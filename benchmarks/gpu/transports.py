"""Measures transports between two ranks: seconds of a small message, bytes per second.

python benchmarks/gpu/transports.py

On one GPU ``staged`` alone; on two, NCCL with its rendezvous too. A hop of Wan 1.3B has 230 MB.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import begin, end, show

HOP = 230e6


def measured(transport: str) -> tuple[float, float]:
    """Return seconds and bytes per second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    module = [sys.executable, "-m", "longtake.comm.handshake", transport]
    with subprocess.Popen([*module, "1", port]):
        done = subprocess.run([*module, "0", port], capture_output=True, text=True, check=True)
    microseconds, rate = map(float, done.stdout.split())
    return microseconds / 1e6, rate * 1e9


def main() -> None:
    """Measure."""
    run = begin(__doc__)
    gpus = torch.cuda.device_count() if run.device.type == "cuda" else 0
    names = ["staged", *(["nccl"] if gpus > 1 else []), *(["gloo"] if not gpus else [])]
    found = {name: measured(name) for name in names}
    show(
        ["transport", "us, small", "GB/s", "ms, a hop"],
        [
            [
                name,
                f"{1e6 * seconds:.0f}",
                f"{rate / 1e9:.1f}",
                f"{1e3 * (seconds + HOP / rate):.1f}",
            ]
            for name, (seconds, rate) in found.items()
        ],
    )
    slowest = max(seconds for seconds, _ in found.values())
    end(run, slowest < 2e-3, f"a message costs {1e3 * slowest:.1f} ms beside its bytes")


if __name__ == "__main__":
    main()
