"""Measures each attention backend at the size of a Wan 1.3B window (25k x 37k, 12 heads of 128).

python benchmarks/gpu/backends.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import begin, end, show

from longtake.errors import ConfigurationError
from longtake.models.base import Placement
from longtake.models.layers.kernel import attention_kernel, check_backend


def main() -> None:
    """Measure."""
    run = begin(__doc__)
    queries, keys, heads, dim = (64, 96, 2, 64) if run.tiny else (24_960, 37_440, 12, 128)
    place = Placement(run.device, torch.bfloat16)
    q, k, v = (
        torch.randn(1, count, heads, dim, device=run.device, dtype=torch.bfloat16)
        for count in (queries, keys, keys)
    )
    operations, rows, rates = 4.0 * queries * keys * heads * dim, [], {}
    names = ["native"] if run.tiny else [name.value for name in AttentionBackendName]
    for name in names:
        try:
            check_backend(name, place)
            seconds = run.seconds(lambda name=name: attention_kernel(q, k, v, name))  # type: ignore[misc]
        except (ConfigurationError, RuntimeError) as error:
            rows.append([name, "", str(error)[:80]])
            continue
        rates[name] = operations / seconds
        rows.append([name, f"{1e3 * seconds:.1f}", f"{rates[name] / 1e12:.0f} TFLOP/s"])
    show(["backend", "ms", ""], rows)
    best = max(rates, key=lambda name: rates[name])
    end(
        run,
        "native" in rates,
        f"{best} is the fastest attention here, {rates[best] / 1e12:.0f} TFLOP/s",
    )


if __name__ == "__main__":
    main()
