"""Left features: keys and values that a block's last forward left, for one that reuses its layers.

A layer that is passed by makes no keys and values. What others read of such a task is what the
layer made when it last ran for the same block, window and expert: the same tensors under the name
of the task, so that while both are held they take memory once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, final

import torch
from torch import Tensor

from longtake.caches import Forward
from longtake.strategies.exchange import TokenShare
from longtake.strategies.runtime.denoising import Denoising
from longtake.strategies.runtime.reuse_decider import Part, is_over, name_of, part_of

Left: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values of each chunk that a forward leaves, ``(B, S, N, D)``, in one layer."""


@final
class LeftFeatures:
    """What the layers behind the first have left of every block in flight, on one rank.

    Args:
        work: The request.
        branches: Rows of the tensors.
        share: The rank's tokens and heads.
    """

    def __init__(self, work: Denoising, branches: range, share: TokenShare) -> None:
        self._work, self._branches = work, branches
        self._place = "" if share.size == 1 else share.place
        self._parts: dict[Part, tuple[int, dict[int, Left]]] = {}
        self._saved = work.resumed

    def of(self, forward: Forward) -> dict[int, Left]:
        """Return what each layer left when it last ran for a task's part, if anything."""
        _, left = self._parts.get(part_of(self._work, forward), (0, {}))
        return left

    def note(self, forward: Forward, left: dict[int, Left]) -> None:
        """Remember what a task that denoises has left, by layer; forget blocks that are over."""
        task = forward.task
        if forward.window.keeps:
            self._parts[part_of(self._work, forward)] = task.step, left
        self._parts = {
            part: (step, left)
            for part, (step, left) in self._parts.items()
            if not is_over(part, step, task)
        }

    def restore(self, layers: Iterable[int]) -> None:
        """Take what was saved of this rank's layers, once.

        Raises:
            ConfigurationError: The tokens and heads were cut otherwise.
        """
        saved, self._saved = self._saved, None
        for block, expert, frames, step, *_, kept in () if saved is None else saved.facts["reuse"]:
            chunks = len({reader for _, reader in kept})
            if not chunks:
                continue
            part = block, expert, tuple(frames)
            left = {
                layer: [self._restored(part, layer, chunk) for chunk in range(chunks)]
                for layer in layers
            }
            self._parts[part] = step, left

    def state(self) -> dict[str, Tensor]:
        """Return what is kept between two tasks, by name."""
        return {
            self._name(part, layer, chunk, branch, of): x[row : row + 1]
            for part, (_, layers) in self._parts.items()
            for layer, left in layers.items()
            for chunk, both in enumerate(left)
            for of, x in zip("kv", both, strict=True)
            for row, branch in enumerate(self._branches)
        }

    def _restored(self, part: Part, layer: int, chunk: int) -> tuple[Tensor, Tensor]:
        saved = self._work.resumed
        assert saved is not None
        k, v = (
            torch.cat(
                [
                    saved.tensor(self._name(part, layer, chunk, branch, of))
                    for branch in self._branches
                ]
            )
            for of in "kv"
        )
        return k.to(self._work.device), v.to(self._work.device)

    def _name(self, part: Part, layer: int, chunk: int, branch: int, of: str) -> str:
        return name_of(part, "left", layer, chunk, branch, self._place, of)
