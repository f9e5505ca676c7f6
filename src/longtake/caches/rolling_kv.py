"""RollingKV: the keys and values of a causal model's last frames, and of its first ones (sinks)."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import Entry, FeatureCache, Held, Kept, Read, Window, positions_of
from longtake.caches.next_block_kv import kept
from longtake.errors import ConfigurationError
from longtake.task import FrameRange, Frames, Task


@final
class RollingKV(FeatureCache):
    """See earlier frames through kept keys and values: the last ones, and the first as sinks.

    For schedules of causal models, whose clean passes leave them (CausVid, Self-Forcing, LongLive,
    Rolling Forcing). A forward sees at most ``frames`` latent frames, its own included: the sinks,
    then the most recent ones. When the buffer would overflow, the oldest frames behind the sinks
    go. An endless video needs no more memory than one of ``buffer`` frames.

    Args:
        frames: Latent frames that a forward sees, its own included; ``None``: all of the video,
            whose memory then grows with its length.
        sinks: First latent frames of the video that are kept for good.
        buffer: Latent frames that are held, those of the oldest block in flight included;
            ``None``: as many as ``frames``. A clean pass sees the buffer's last frames, sinks or
            not (Rolling Forcing: 24 for 21).
        moved_sinks: Whether forwards that denoise see the sinks right before the recent frames,
            instead of where they are in the video (Rolling Forcing).
        keep_sinks: Whether sinks outlive a change of the prompt as they were made (LongLive's
            ``global_sink``); otherwise the oldest of the frames that are recached become sinks.
    """

    def __init__(
        self,
        frames: int | None = 21,
        sinks: int = 0,
        buffer: int | None = None,
        moved_sinks: bool = False,
        keep_sinks: bool = True,
    ) -> None:
        if frames is not None and not 0 <= sinks < frames:
            raise ConfigurationError(
                f"sinks is {sinks}, but a forward sees {frames} latent frames (frames), its own "
                f"included: choose 0 to {frames - 1}."
            )
        if frames is not None and buffer is not None and buffer < frames:
            raise ConfigurationError(
                f"buffer is {buffer}, but a forward sees {frames} latent frames (frames): choose "
                f"{frames} or more, or leave it out."
            )
        self.frames = frames
        self.sinks = sinks
        self.buffer = buffer
        self.moved_sinks = moved_sinks
        self.keep_sinks = keep_sinks

    @override
    def window(self, task: Task, held: Held) -> Window:
        if self.frames is not None and len(task.own) > self.frames - self.sinks:
            raise ConfigurationError(
                f"RollingKV sees {self.frames} latent frames with {self.sinks} sinks, but the "
                f"scheduler denoises {len(task.own)} at once: give the cache at least "
                f"{len(task.own) + self.sinks} frames, or the scheduler smaller blocks."
            )
        if any(leave.anew for leave in task.leaves):
            return self._recache(task, held)
        own = task.own or tuple(f for leave in task.leaves for f in leave.frames.each)
        others = sorted(
            entry
            for entry in held
            if entry.frame not in own and any(entry.frame in seen.frames for seen in task.sees)
        )
        overflow = self._overflow(task, others, held)
        others = [entry for entry in others if entry not in overflow]
        reads = self._reads(task, own, others)
        keeps = kept(task) if task.runs else _clean(task, own)
        replaced = {entry.frame for entry, _ in keeps}
        first = min((later.start for later in task.later), default=0)
        # Frames before all that later tasks may see are finished, and out of every window.
        gone = [entry for entry in held if entry.frame in replaced or entry.frame < first]
        drops = dict.fromkeys((*overflow, *gone))
        return Window(
            frames=own,
            positions=positions_of(task, own),
            reads_before=reads,
            keeps=keeps,
            drops=tuple(drops),
            latents=self._latents(task),
        )

    def _reads(self, task: Task, own: Frames, others: list[Entry]) -> tuple[Read, ...]:
        room = len(others) if self.frames is None else self.frames - len(own)
        if not task.runs:
            return _at_home(others[max(0, len(others) - room) :])
        sinks, recent = others[: self.sinks], others[self.sinks :]
        recent = recent[max(0, len(recent) - (room - len(sinks))) :]
        if not self.moved_sinks:
            return _at_home(sinks + recent)
        first = min(own) - len(recent) - len(sinks)
        moved = tuple(Read(entry, first + place) for place, entry in enumerate(sinks))
        return moved + _at_home(recent)

    def _overflow(self, task: Task, others: list[Entry], held: Held) -> list[Entry]:
        """Return what goes when a block becomes the oldest one: the oldest frames but the sinks.

        It does when all before it have had their clean pass.
        """
        most = self.frames if self.buffer is None else self.buffer
        if most is None or not task.runs:
            return []
        if any(held[entry].version < task.steps for entry in others):
            return []
        excess = len(others) + len(task.runs[0].frames) - most
        return others[self.sinks : self.sinks + max(0, excess)]

    def _recache(self, task: Task, held: Held) -> Window:
        """Make what is held anew, with the prompt of now: one forward without a mask (LongLive)."""
        past = max((leave.frames for leave in task.leaves if leave.anew), key=len)
        entries = sorted(entry for entry in held if entry.frame in past)
        whole = len(entries) == len(past)
        sinks = entries[: self.sinks] if self.keep_sinks and not whole else []
        if self.keep_sinks or whole or self.frames is None:
            frames = tuple(entry.frame for entry in entries if entry not in sinks)
        else:
            frames = past.last(self.frames).each
        return Window(
            frames=frames,
            positions=frames,
            reads_before=_at_home(sinks),
            keeps=_clean(task, frames),
            drops=tuple(entry for entry in entries if entry not in sinks),
            latents=self._latents(task),
        )

    def _latents(self, task: Task) -> tuple[FrameRange, ...]:
        if self.frames is None:
            return task.left_later
        return tuple(later.last(self.frames) for later in task.left_later)


def _at_home(entries: list[Entry]) -> tuple[Read, ...]:
    return tuple(Read(entry, entry.frame) for entry in entries)


def _clean(task: Task, frames: Frames) -> tuple[tuple[Entry, Kept], ...]:
    return tuple((Entry(frame, task.index), Kept(task.steps)) for frame in frames)
