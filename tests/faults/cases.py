"""Cases of the fault suite: small runs of a tiny model, and what must be left of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.forked import Ended, Fault, run_forked

COMMON: Final = (
    *("--trainer.accelerator", "cpu", "--model.steps", "3", "--model.dtype", "float32"),
    *("--data.prompts", '["red shape moves left", "blue bird"]'),
    *("--data.height", "32", "--data.width", "48", "--progress", "none"),
    *("--keep_latents", "all", "--snapshot_seconds", "0.000001"),
)
METHODS: Final[dict[str, tuple[str, ...]]] = {
    "queue": (
        *("--model.scheduler", "FifoQueue", "--model.scheduler.block_frames", "3"),
        *("--model.scheduler.context_frames", "2", "--model.cache", "SameStepKV"),
        *("--data.num_frames", "49"),
    ),
    "causal": (
        *("--model.scheduler", "CascadeQueue", "--model.scheduler.block_frames", "2"),
        *("--model.cache", "RollingKV", "--model.cache.frames", "5", "--model.cache.sinks", "1"),
        *("--model.noise", "Independent", "--data.num_frames", "33"),
    ),
    "windows": (
        *("--model.scheduler", "ContextWindows", "--model.scheduler.length", "4"),
        *("--model.scheduler.overlap", "2", "--model.cache", "NoCache"),
        *("--data.num_frames", "33"),
    ),
}
"""A queue, a causal method, and one whose windows are fused: two prompts each."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An undisturbed run.

    Args:
        content: Checksums of its latents and videos, by name.
        seconds: How long it took.
        out: Its run folder.
    """

    content: dict[str, str]
    seconds: float
    out: Path


def options(model: Path, method: str, ranks: int, decode_devices: int = 0) -> list[str]:
    """Return the options of a run, but for its output.

    Args:
        model: Folder of the tiny model.
        method: Which case.
        ranks: Of the run.
        decode_devices: How many of them decode.
    """
    return [
        *("predict", "--model.pipeline", str(model), *COMMON, *METHODS[method]),
        *devices(ranks, decode_devices),
    ]


def devices(ranks: int, decode_devices: int = 0) -> list[str]:
    """Return the options that say where a run runs.

    Args:
        ranks: Of the run.
        decode_devices: How many of them decode.
    """
    devices = ["--trainer.devices", str(ranks)]
    if ranks - decode_devices == 1:
        devices += ["--trainer.strategy", "SingleDevice"]
        devices += ["--trainer.strategy.decode_devices", str(decode_devices)]
    else:
        devices += ["--trainer.strategy", "DualParal", "--trainer.strategy.guidance", "together"]
        devices += ["--trainer.strategy.cfg", "1", "--trainer.strategy.decode_devices"]
        devices += [str(decode_devices)]
    return devices


def content_of(out: Path) -> dict[str, str]:
    """Return the checksums of a run's latents and videos."""
    names = ("latents/*.safetensors", "video.*", "frames/*.png")
    paths = [path for name in names for path in out.glob(f"*/{name}")]
    return {
        str(path.relative_to(out)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def whole_run(
    model: Path,
    method: str,
    out: Path,
    run: Callable[[list[str], Path], Ended] = run_forked,
) -> Whole:
    """Make an undisturbed run on one rank."""
    ended = run([*options(model, method, 1), "--output", str(out)], out.with_suffix(".log"))
    assert ended.statuses == (0,), ended.said
    return Whole(content_of(out), ended.seconds, out)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run that was struck, perhaps several times.

    Args:
        strikes: How many faults came before the end.
        status: Of the last process.
        equal: Whether latents and videos are those of the undisturbed run.
        left: Files that nobody needs any more.
        said: What the last process said.
    """

    strikes: int
    status: int
    equal: bool
    left: tuple[str, ...]
    said: str

    @property
    def is_well(self) -> bool:
        """Whether nothing is lost, and nothing is left."""
        return self.status == 0 and self.equal and not self.left


def struck_run(
    model: Path,
    method: str,
    out: Path,
    whole: Whole,
    faults: Sequence[tuple[int, Fault]],
    last_ranks: int = 1,
    decode_devices: int = 0,
    run: Callable[[list[str], Path, int, Fault | None], Ended] = run_forked,
) -> Outcome:
    """Run a case, strike it, let it go on, strike it again; at last let it end.

    Args:
        model: Folder of the tiny model.
        method: Which case.
        out: Its run folder.
        whole: The undisturbed run.
        faults: Of each process: the number of ranks, and what befalls it.
        last_ranks: Of the process that nothing befalls.
        decode_devices: How many ranks of each process decode, beside the others.
        run: Runs the command to its end.
    """
    strikes = 0
    ended: Ended | None = None
    for ranks, fault in [*faults, (last_ranks, None)]:
        args = [
            *options(model, method, ranks, decode_devices),
            "--output",
            str(out),
            "--resume",
            "auto",
        ]
        ended = run(args, out.with_suffix(".log"), ranks, fault)
        strikes += ended.struck
    assert ended is not None
    return Outcome(
        strikes,
        max(ended.statuses),
        content_of(out) == whole.content,
        left_in(out),
        ended.said,
    )


def left_in(out: Path) -> tuple[str, ...]:
    """Return files of a finished run that nobody needs any more."""
    left = [path for path in out.rglob("*") if path.name.startswith(".")]
    left += [*out.rglob("snapshots"), *out.rglob("part")]
    return tuple(str(path.relative_to(out)) for path in left)


def moments(seed: int, count: int, seconds: float) -> list[float]:
    """Return seeded moments within a run, one in each of ``count`` equal parts of it."""
    chance = random.Random(seed)
    return [(part + chance.random()) * seconds / count for part in range(count)]
