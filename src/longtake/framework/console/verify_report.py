"""Report of a verification, to be pasted: what ``longtake verify MODEL`` prints."""

from __future__ import annotations

import sys

import torch

from longtake.framework.console.versions import versions
from longtake.framework.engine.verification import STEPS, Verdict

WHERE = "https://github.com/longtake/longtake/issues"


def show(verdict: Verdict) -> int:
    """Print a verdict, and return the exit status: 0 where both are equal, 1 where they are not."""
    sys.stdout.write(f"{report(verdict)}\n")
    said = (
        f"equal: paste the lines above at {WHERE}, for docs/verified.md"
        if verdict.equal
        else f"NOT equal: please paste the lines above at {WHERE}"
    )
    sys.stderr.write(f"longtake: {said}\n")
    return 0 if verdict.equal else 1


def report(verdict: Verdict) -> str:
    """Return the lines of the report."""
    frames, height, width = verdict.size
    cuda = verdict.device.startswith("cuda")
    rows = {
        "verdict": "equal" if verdict.equal else "not equal",
        "model": verdict.model + (f" @ {verdict.revision}" if verdict.revision else ""),
        "pipeline": verdict.pipeline,
        "compared": f"latents after {STEPS} steps, {frames} frames of {width} x {height}",
        "difference": f"{verdict.difference:.1e} of the largest latent (limit {verdict.limit:g})",
        "computed": f"{verdict.dtype} on {torch.cuda.get_device_name() if cuda else 'a CPU'}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items() if number),
    }
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())
