"""A cache of one's own: the last frames of the past, and every other one of those before.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      scheduler: Autoregressive
      cache: {class_path: own_cache.Thinned, init_args: {recent: 6, far: 4}}
"""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.api import ConfigurationError, Entry, FeatureCache, Held, Kept, Read, Task, Window


@final
class Thinned(FeatureCache):
    """Look back twice as far as the keys and values that are held would reach.

    For schedulers of causal models, whose clean passes leave them (``Autoregressive``).

    Args:
        recent: Latent frames of the past that are held without a gap.
        far: Latent frames before those that are held, every other one.
    """

    def __init__(self, recent: int = 6, far: int = 4) -> None:
        if recent < 1 or far < 0:
            raise ConfigurationError(
                f"recent is {recent} and far {far}; hold 1 latent frame or more, and 0 or more."
            )
        self.recent = recent
        self.far = far

    @override
    def window(self, task: Task, held: Held) -> Window:
        if any(leave.anew for leave in task.leaves):  # the prompt changes: what is held stays
            return Window(frames=(), positions=(), latents=task.left_later)
        clean_pass = not task.runs
        own = task.own or tuple(f for leave in task.leaves for f in leave.frames.each)
        past = sorted(entry for entry in held if entry.frame < own[0])
        left = [Entry(frame, task.index) for frame in own] if clean_pass else []
        before = (past + left)[: -self.recent]
        every_other = [entry for entry in before if entry.frame % 2 == 0]
        stay = {*every_other[max(0, len(every_other) - self.far) :], *(past + left)[-self.recent :]}
        return Window(
            frames=own,
            positions=own,
            reads_before=tuple(Read(entry, entry.frame) for entry in past),
            keeps=tuple((entry, Kept(task.steps)) for entry in left if entry in stay),
            drops=tuple(entry for entry in past if entry not in stay) if clean_pass else (),
            latents=task.left_later,
        )
