"""The contract suite of guidances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.guidance import (
    CONDITIONAL,
    Branch,
    Guidance,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)

SHAPE = (1, 2, 3, 4, 4)
STEPS = 6
NOTHING: GuidanceState = {}


class GuidanceContract(ABC):
    """What every guidance must do."""

    settings: ClassVar[GuidanceSettings] = GuidanceSettings(scales=(4.0, 2.0), layers=8)
    """What the guidance is made of: two experts, of which the second one works from half way on."""

    @abstractmethod
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        """Return a new guidance."""

    def test_branches_are_distinct_and_the_prompts_comes_first(self) -> None:
        """Each is a forward of every task; the same ones every time."""
        branches = self._made().branches
        assert branches[0] == CONDITIONAL
        assert len(set(branches)) == len(branches)
        assert branches == self._made().branches

    def test_perturbed_layers_are_those_of_the_model(self) -> None:
        """Others would be perturbed in vain."""
        for branch in self._made().branches:
            for layer in (*branch.skipped, *branch.unattended):
                assert 0 <= layer < self.settings.layers, f"{branch} names layer {layer}"

    def test_nothing_is_changed_in_place(self) -> None:
        """Neither predictions nor what was kept: both may be in other hands."""
        guidance, state = self._made(), NOTHING
        for step in range(STEPS):
            rows = _rows(guidance, step)
            held: list[Tensor] = [*rows.values(), *state.values()]
            before = [tensor.clone() for tensor in held]
            _, state = guidance.combine(rows, _at(step), state)
            assert all(map(torch.equal, held, before)), f"step {step} has changed what it was given"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_predictions_keep_their_shape_and_are_finite(self, dtype: torch.dtype) -> None:
        """Whatever the model's dtype; what is kept is tensors."""
        guidance, state = self._made(), NOTHING
        for step in range(STEPS):
            rows = {branch: row.to(dtype) for branch, row in _rows(guidance, step).items()}
            guided, state = guidance.combine(rows, _at(step), state)
            assert guided.shape == SHAPE
            assert torch.isfinite(guided).all()
            assert all(isinstance(tensor, Tensor) for tensor in state.values())

    def test_blocks_in_turns_do_not_disturb_each_other(self) -> None:
        """Two blocks, one step apart, come out as alone: what is kept of a block is passed in."""
        alone = [self._run(seed) for seed in (0, 1000)]
        guidance = self._made()
        states = [NOTHING, NOTHING]
        found: list[list[Tensor]] = [[], []]
        for turn in range(STEPS + 1):
            for block, step in ((1, turn - 1), (0, turn)):
                if 0 <= step < STEPS:
                    rows = _rows(guidance, step, 1000 * block)
                    guided, states[block] = guidance.combine(rows, _at(step), states[block])
                    found[block].append(guided)
        for block in range(2):
            assert all(map(torch.equal, found[block], alone[block])), f"block {block} differs"

    @pytest.mark.parametrize("done", range(1, STEPS))
    def test_a_block_goes_on_from_what_was_kept(self, done: int) -> None:
        """In another process, too: the rest has the same bits."""
        guidance, state = self._made(), NOTHING
        for step in range(done):
            _, state = guidance.combine(_rows(guidance, step), _at(step), state)
        guidance = self._made()
        for step in range(done, STEPS):
            guided, state = guidance.combine(_rows(guidance, step), _at(step), state)
            assert torch.equal(guided, self._run(0)[step]), f"step {step} after step {done - 1}"

    def test_branches_that_agree_are_not_steered(self) -> None:
        """A guidance lives on differences: without one the prediction stays, to rounding."""
        guidance, state = self._made(), NOTHING
        for step in range(STEPS):
            row = _draw(step)
            rows = dict.fromkeys(guidance.branches, row)
            guided, state = guidance.combine(rows, _at(step), state)
            assert torch.allclose(guided, row, rtol=1e-4, atol=1e-4), f"step {step}"

    def test_no_random_numbers_are_drawn(self) -> None:
        """Torch's global generator is neither read nor moved."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            before = torch.get_rng_state()
            first = self._run(0)
            assert torch.equal(before, torch.get_rng_state()), "torch's global generator moved"
            torch.manual_seed(2)
            assert all(map(torch.equal, first, self._run(0))), "depends on torch's generator"

    def _made(self) -> Guidance:
        return self.guidance(self.settings)

    def _run(self, seed: int) -> list[Tensor]:
        guidance, state = self._made(), NOTHING
        found = []
        for step in range(STEPS):
            guided, state = guidance.combine(_rows(guidance, step, seed), _at(step), state)
            found.append(guided)
        return found


def _at(step: int) -> GuidedStep:
    return GuidedStep(step=step, steps=STEPS, expert=int(step >= STEPS // 2))


def _rows(guidance: Guidance, step: int, seed: int = 0) -> dict[Branch, Tensor]:
    return {branch: _draw(seed + 10 * step + row) for row, branch in enumerate(guidance.branches)}


def _draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
