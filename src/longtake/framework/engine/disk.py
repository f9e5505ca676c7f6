"""Disk that a run needs beside its video: journal and snapshots, foreseen before it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Final

from longtake.errors import OutputError
from longtake.framework.engine.journal import KeepLatents
from longtake.framework.engine.keeper import KeepSnapshots
from longtake.framework.engine.preflight import held_frames
from longtake.framework.engine.snapshot_files import KEPT
from longtake.plan.cost.memory import frame_bytes as cached_frame_bytes
from longtake.plan.cost.memory import reused_bytes
from longtake.plan.cost.rundown import rundown
from longtake.plan.cost.simulator import bounded
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload

_NUMBER: Final = 4
"""Bytes of a number of a latent on the disk."""
_TENSORS: Final = 4
"""Of a block in flight: its latents, and the most that a multi-step solver remembers."""
_LOOKED_AT: Final = 8
"""Blocks among which the longest are, behind as many as are in flight."""


def frame_bytes(workload: Workload) -> int:
    """Return the bytes of one latent frame in a journal."""
    return workload.spec.channels * workload.height * workload.width * _NUMBER


def snapshot_bytes(workload: Workload, layout: Layout) -> int:
    """Return the most that a snapshot can take, all ranks together.

    Args:
        workload: A request.
        layout: Says which ranks hold what.
    """
    in_flight = workload.blocks_in_flight
    blocks = islice(workload.scheduler.blocks(workload.latent_frames), in_flight + _LOOKED_AT)
    longest = sorted((len(block) for block in blocks), reverse=True)[:in_flight]
    queue = sum(longest) * frame_bytes(workload) * _TENSORS
    ranks = range(layout.mesh.size)
    cached = sum(cached_frame_bytes(workload, layout, rank) for rank in ranks)
    if not workload.reuses:
        return queue + held_frames(workload) * cached
    window = rundown(bounded(workload)).widest
    reused = sum(reused_bytes(workload, layout, rank, window) for rank in ranks)
    return queue + held_frames(workload) * cached + reused


def check_disk(
    folder: Path,
    workloads: Sequence[Workload],
    layout: Layout,
    keep: KeepLatents,
    keep_snapshots: KeepSnapshots = "none",
    replicas: int = 1,
    written: Sequence[int] = (),
) -> str | None:
    """Refuse a run whose journal cannot fit on the disk; return a warning where snapshots may not.

    Args:
        folder: The run's; it may not exist yet.
        workloads: Of its requests that are to be made; endless ones are not counted.
        layout: Says which ranks of a replica hold what.
        keep: Which blocks' latents stay.
        keep_snapshots: Which snapshots stay; one of each request, where it is made longer from it.
        replicas: Requests that are made at the same time.
        written: Of a run that goes on, the bytes that are there of each request's journal.

    Raises:
        OutputError: Names what is needed, and what is there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    whole = [(one.latent_frames or 0) * frame_bytes(one) for one in workloads]
    each = sorted(max(0, size - had) for size, had in zip_longest(whole, written, fillvalue=0))
    journal = sum(each if keep == "all" else each[-replicas:])
    if journal > free:
        who, more, remedy = f"--output {folder}", "", "give a folder on another disk"
        if written:
            who, more, remedy = f"the run in {folder}", "more ", "make room there"
        raise OutputError(
            f"{who} needs {_gigabytes(journal)} {more}for the latents of finished blocks "
            f"(keep_latents: {keep}), but {there} has {_gigabytes(free)}; {remedy}."
        )
    sizes = sorted(snapshot_bytes(one, layout) for one in workloads)
    snapshots = (KEPT + 1) * sum(sizes[-replicas:])
    snapshots += sum(sizes) if keep_snapshots == "extend" else 0
    if journal + snapshots > free:
        return (
            f"up to {_gigabytes(snapshots)} of snapshots may not fit on the disk of {there}, which "
            f"has {_gigabytes(free)}: should the run die, it would go on from an earlier one, or "
            f"begin anew."
        )
    return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
