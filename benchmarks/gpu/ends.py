"""Runs the command on a GPU to its ends: twice to the same bytes, to Ctrl-C, to no memory.

python benchmarks/gpu/ends.py [--pipeline Wan-AI/Wan2.1-T2V-1.3B-Diffusers]

A model, the bundled one by default, through the command line: two deterministic runs give the same
bytes; Ctrl-C in mid-task and a size that does not fit end within 15 s, the former with a file that
plays.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import Run, begin, end, show

BAR = 15.0
"""Seconds to the end."""
DEMO = ("--model.steps", "2", "--data.prompts", "red shape moves left")


def command(run: Run, out: Path, *options: str) -> list[str]:
    """Return a run of the command."""
    start = [sys.executable, "-m", "longtake", "predict", *DEMO]
    start += ["--model.pipeline", run.pipeline, "--output", str(out), "--progress", "plain"]
    return [*start, "--trainer.accelerator", run.device.type, *options]


def digest(run: Run, out: Path) -> str:
    """Make a short video; return the digest of its file."""
    options = ("--trainer.deterministic", "true", "--data.num_frames", "33")
    subprocess.run(command(run, out, *options), check=True, capture_output=True)
    return hashlib.sha256((out / "0000" / "video.mp4").read_bytes()).hexdigest()[:16]


def interrupted(run: Run, out: Path) -> float:
    """Interrupt an endless video; return the seconds to its end."""
    options = ("--data.num_frames", "null")
    with subprocess.Popen(
        command(run, out, *options), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "event=block_end" in line:
                break
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait() == 0
    assert (out / "0000" / "video.mp4").stat().st_size
    return time.monotonic() - start


def out_of_memory(run: Run, out: Path) -> tuple[float, str]:
    """Ask for a picture that cannot fit; return the seconds to the end, and what is said."""
    side = "8192"
    options = ("--data.height", side, "--data.width", side, "--data.num_frames", "81")
    start = time.monotonic()
    done = subprocess.run(command(run, out, *options), capture_output=True, text=True, check=False)
    assert done.returncode
    return time.monotonic() - start, (done.stderr.strip().splitlines() or [""])[-1][:100]


def main() -> None:
    """Measure."""
    run = begin(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        first, second = digest(run, out / "first"), digest(run, out / "second")
        rows = [["the same bytes twice", first, str(first == second)]]
        seconds = interrupted(run, out / "interrupted")
        rows.append(["Ctrl-C", f"{seconds:.1f} s", str(seconds <= BAR)])
        passed = first == second and seconds <= BAR
        if run.device.type == "cuda":
            seconds, says = out_of_memory(run, out / "full")
            rows.append([f"no memory: {says}", f"{seconds:.1f} s", str(seconds <= 4 * BAR)])
            passed = passed and seconds <= 4 * BAR
    show(["end", "", "passed"], rows)
    end(run, passed, "a deterministic run repeats itself to the byte; runs end within seconds")


if __name__ == "__main__":
    main()
