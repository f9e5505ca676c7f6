"""NextBlockKV: DualParal's feature cache."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import Entry, FeatureCache, Held, Kept, Read, Window, positions_of
from longtake.task import Frames, Task


@final
class NextBlockKV(FeatureCache):
    """See the following block through its keys and values of this iteration (DualParal).

    The context after is read from the following block, which has just run in the same iteration;
    the context before is recomputed from the preceding block's latents, put in front of the
    window and processed with the task's own timestep, as the paper does, or with its own where the
    model takes a timestep per frame. With two experts (Wan 2.2), at the one step where a block has
    crossed the boundary and the next has not, the keys and values read are those of the other
    expert, as in the published code.

    With a schedule of other order: what a task sees of earlier frames is recomputed, what it sees
    of later ones is read where an older block's task may see it.
    """

    @override
    def window(self, task: Task, held: Held) -> Window:
        frames = (*task.seen_before, *task.own)
        reads = after_of(task, held)
        return Window(
            frames=frames,
            positions=positions_of(task, frames),
            reads_after=reads,
            keeps=kept(task, older=True),
            drops=tuple(read.entry for read in reads),
            latents=task.later,
        )


def after_of(task: Task, held: Held) -> tuple[Read, ...]:
    """Return the newest entries of the frames after its own that a task may see."""
    return tuple(Read(entry, entry.frame) for entry in newest(held, task.seen_after))


def newest(held: Held, frames: Frames) -> list[Entry]:
    """Return the newest entry of each of some frames, in their order; none where none is held."""
    found: dict[int, Entry] = {}
    for entry in held:
        if entry.frame not in found or found[entry.frame].index < entry.index:
            found[entry.frame] = entry
    return [found[frame] for frame in frames if frame in found]


def kept(task: Task, *, older: bool = False) -> tuple[tuple[Entry, Kept], ...]:
    """Return what a task leaves of the frames that it denoises, each with its last reader.

    Args:
        task: Which one.
        older: For the readers that are older than its own blocks only.
    """
    last: dict[int, int | None] = {}
    for leave in task.leaves:
        if older and (leave.reader is None or leave.reader >= task.block):
            continue
        for frame in leave.frames.each:
            known = last.get(frame, leave.reader)
            last[frame] = (
                None if known is None or leave.reader is None else max(known, leave.reader)
            )
    own: Frames = task.own
    versions = {frame: run.step for run in task.runs for frame in run.frames}
    return tuple(
        (Entry(frame, task.index), Kept(versions[frame], last[frame]))
        for frame in own
        if frame in last
    )
