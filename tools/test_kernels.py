"""Test runs under other arithmetic kernels: those that other processors would choose.

    python tools/test_kernels.py                            # every kernel, 1 and 2 threads
    python tools/test_kernels.py --kernels aten-default --threads 2 --suites
    tests/unit/models/wan/test_wan.py

Each run is a pytest of its own, as libraries read their settings once; as many as there are cores
go on beside one another, as tests wait much. All runs are made; the exit status is 1 where one of
them fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
KERNELS: Final[dict[str, dict[str, str]]] = {
    "best": {},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
}
"""What each library is told: ``best`` is what it chooses for this processor."""
THREADS: Final = (1, 2)
SUITES: Final = (
    *sorted(
        str(path.relative_to(ROOT)) for path in ROOT.glob("tests/unit/models/*/test_*_decoder.py")
    ),
    "tests/unit/framework/engine/test_engine.py",
    "tests/unit/test_examples.py",
    "tests/unit/strategies/test_reference.py",
    "tests/unit/models/samplers/test_sampler.py",
    "tests/unit/models/skyreels_v2/test_skyreels_v2.py",
    "tests/unit/framework/engine/test_conditioning.py",
    "tests/unit/strategies/test_strategies.py",
    "tests/unit/models/decoders/test_tiles.py",
    "tests/unit/models/wan/test_wan.py",
    "tests/unit/models/wan/test_wan_i2v.py",
    "tests/unit/models/wan/test_wan_pipeline.py",
    "tests/unit/models/wan/test_wan_ti2v.py",
    "tests/distributed/test_decode_group.py",
    "tests/distributed/test_dual_paral.py",
    "tests/distributed/test_engine.py",
    "tests/distributed/test_families.py",
    "tests/distributed/test_sequence_parallel.py",
    "tests/distributed/test_wan_i2v.py",
    "tests/cli/test_same_bytes.py",
)
"""Those that compare what was computed in two ways."""


def main() -> None:
    """Run the suites under each of the kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--beside", type=int, default=os.cpu_count(), help="runs at a time")
    options = parser.parse_args()
    runs = [(kernel, threads) for kernel in options.kernels for threads in options.threads]
    with ThreadPoolExecutor(options.beside) as beside:
        going = [beside.submit(_run, *run, options.suites) for run in runs]
        results = [one.result() for one in going]
    for (kernel, threads), (status, seconds) in zip(runs, results, strict=True):
        name = f"{kernel}, {threads} threads"
        print(f"{name:28} {'failed' if status else 'passed'} {seconds:6.0f} s")
    sys.exit(any(status for status, _ in results))


def _run(kernel: str, threads: int, suites: list[str]) -> tuple[int, float]:
    """Return the exit status of one run, and its seconds; print what it says once it has ended."""
    environment = os.environ | KERNELS[kernel] | {"LONGTAKE_TEST_THREADS": str(threads)}
    begin = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *suites]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    print(f"--- {kernel}, {threads} threads\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode, time.monotonic() - begin


if __name__ == "__main__":
    main()
