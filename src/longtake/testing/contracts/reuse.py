"""The contract suite of rules that say when layers are reused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch

from longtake.caches import NoCache
from longtake.plan.ir.actions import Compute
from longtake.reuse import LayerReuse, ReuseStep
from longtake.schedulers import FifoQueue
from longtake.strategies import ActionDone, BlockDone, Layout, Progress, SingleDevice
from longtake.testing.tiny.base import TinyCase, tiny_denoising

STEPS = 12
CHANGES = (0.5, 0.01, 0.0, 0.3, 0.02, 0.04, 0.9, 0.06, 0.07, 0.001, 0.2, 0.03)
CASE = TinyCase(scheduler=FifoQueue(3, 2), cache=NoCache(), steps=6, latent_frames=8)


class LayerReuseContract(ABC):
    """What every rule must do."""

    @abstractmethod
    def rule(self) -> LayerReuse:
        """Return a new rule."""

    def test_what_it_compares_with_is_known(self) -> None:
        """The last forward of all layers, or the last one."""
        assert self.rule().compares_with in ("computed", "last")

    def test_decisions_are_words_and_numbers(self) -> None:
        """A snapshot keeps the memory as a finite number, whatever the change."""
        for change in (*CHANGES, 1e30, math.inf):
            reused, memory = self.rule().decide(change, _at(3), 0.25)
            assert isinstance(reused, bool)
            assert isinstance(memory, float | int)
            assert math.isfinite(memory), f"a memory of {memory} after a change of {change}"

    def test_it_is_a_pure_function(self) -> None:
        """Blocks come in turns and go on elsewhere: only what is passed in is remembered."""
        alone = self._decisions(self.rule())
        rule = self.rule()
        states = [(0, 0.0), (0, 0.0)]
        found: list[list[tuple[bool, float]]] = [[], []]
        for turn in range(STEPS + 1):
            for block, step in ((1, turn - 1), (0, turn)):
                if 0 <= step < STEPS:
                    reused, memory = states[block]
                    word, memory = rule.decide(CHANGES[step], _at(step, reused), memory)
                    states[block] = (reused + 1 if word else 0, memory)
                    found[block].append((word, memory))
        assert found == [alone, alone]

    @torch.no_grad()
    def test_a_video_is_made_alike_every_time(self) -> None:
        """And the first forward of a block always runs all layers."""
        first, second = self._run(), self._run()
        assert _words(first) == _words(second)
        for one, other in zip(_blocks(first), _blocks(second), strict=True):
            assert torch.isfinite(one.latents).all()
            assert torch.equal(one.latents, other.latents)
        begun: set[int] = set()
        for task, word in zip(CASE.workload.tasks(), _words(first), strict=True):
            assert not (word and task.block not in begun), f"{task.name} had nothing to reuse"
            begun.add(task.block)

    def _run(self) -> list[Progress]:
        work = tiny_denoising(replace(CASE, reuse=self.rule()))
        layout = Layout.serial(work.backbone.spec.layers, len(work.guidance.branches))
        return list(SingleDevice().run(work, layout, 0))

    def _decisions(self, rule: LayerReuse) -> list[tuple[bool, float]]:
        found, reused, memory = [], 0, 0.0
        for step, change in enumerate(CHANGES):
            word, memory = rule.decide(change, _at(step, reused), memory)
            reused = reused + 1 if word else 0
            found.append((word, memory))
        return found


def _at(step: int, reused: int = 0) -> ReuseStep:
    return ReuseStep(step=step, steps=STEPS, reused=reused)


def _words(events: list[Progress]) -> list[bool]:
    return [
        event.reused
        for event in events
        if isinstance(event, ActionDone) and isinstance(event.action, Compute)
    ]


def _blocks(events: list[Progress]) -> list[BlockDone]:
    return [event for event in events if isinstance(event, BlockDone)]
