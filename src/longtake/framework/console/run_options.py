"""Run options: what a run writes where, how it goes on, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from longtake.framework.engine.interval import SnapshotSeconds
from longtake.framework.engine.journal import KeepLatents
from longtake.framework.engine.keeper import KeepSnapshots


def add_run_options(parser: LightningArgumentParser) -> None:
    """Add the options of a run that belong to none of its parts."""
    _add_output(parser)
    _add_resume(parser)
    _add_reports(parser)


def _add_output(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out"),
        help="Folder that the run writes into: 0000/video.mp4 and so on per request, "
        "config.yaml, report.json.",
    )
    parser.add_argument(
        "--overwrite", type=bool, default=False, help="Replace an earlier run in --output."
    )
    parser.add_argument(
        "--keep_latents",
        type=KeepLatents,
        default="none",
        help="Which finished blocks' latents stay in 0000/latents/<block>.safetensors when a "
        "video is finished: all, none, or tail, those of its last 8 latent frames. Until then "
        "all are kept, so that the run can be resumed.",
    )
    parser.add_argument(
        "--keep_snapshots",
        type=KeepSnapshots,
        default="none",
        help="Which snapshots stay in 0000/kept when a video is finished: none, or extend, the "
        "one from which --extend makes a longer video bit by bit as if it had been asked for "
        "at once. Needs --keep_latents all.",
    )


def _add_resume(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        help="Go on with a run that was ended: its folder, no other option is needed. auto: go "
        "on with the run in --output, or begin it; for command lines that a scheduler starts "
        "again (docs/resume.md).",
    )
    parser.add_argument(
        "--extend",
        type=str | None,
        default=None,
        help="Make the videos of a finished run longer: its folder, and --data.num_frames N, "
        "which counts the video frames that are there. They stay as they are; what follows is "
        "conditioned on the last 8 latent frames (--keep_latents tail or all), so it is not "
        "what a longer run makes; with --keep_snapshots extend it is (docs/resume.md).",
    )
    parser.add_argument(
        "--snapshot_seconds",
        type=SnapshotSeconds,
        default="auto",
        help="Seconds between snapshots of what is in flight, from which a run goes on; auto: "
        "so many that they take at most a hundredth of the time; never: it begins anew.",
    )


def _add_reports(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        type=Literal["auto", "none", "plain", "rich"],
        default="auto",
        help="How to show progress: rich on a terminal, plain lines of key=value elsewhere.",
    )
    parser.add_argument(
        "--timeline",
        type=bool,
        default=False,
        help="Write what every rank did when: 0000/timeline.svg and 0000/timeline.txt.",
    )
    parser.add_argument(
        "--plan",
        type=Path | None,
        default=None,
        help="Do what this file says, every rank's actions one after another, in place of what "
        "the strategy would: longtake plan --actions FILE writes such a file.",
    )
