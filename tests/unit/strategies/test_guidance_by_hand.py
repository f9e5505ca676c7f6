"""Classifier-free guidance on numbers that can be worked out in one's head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longtake.guidance import (
    CONDITIONAL,
    UNCONDITIONAL,
    Branch,
    ClassifierFreeGuidance,
    GuidanceSettings,
    GuidedStep,
)


@pytest.mark.parametrize(
    ("scales", "branches"),
    [((1.0,), 1), ((0.0,), 1), ((1.5,), 2), ((1.0, 1.0), 1), ((1.0, 4.0), 2), ((4.0, 0.5), 2)],
)
def test_guidance_is_off_where_no_expert_has_a_scale_above_one(
    scales: tuple[float, ...], branches: int
) -> None:
    guidance = ClassifierFreeGuidance(GuidanceSettings(scales=scales))
    assert guidance.branches == (CONDITIONAL, UNCONDITIONAL)[:branches]


def combined(
    guidance: ClassifierFreeGuidance, rows: dict[Branch, Tensor], expert: int = 0, step: int = 0
) -> Tensor:
    at = GuidedStep(step=step, steps=5, expert=expert)
    guided, state = guidance.combine(rows, at, {})
    assert not state
    return guided


def test_branches_are_joined_with_the_scale_of_the_expert() -> None:
    # The prompt's is 5, the negative prompt's 3. 3 + 4 x 2 = 11, 3 + 0.5 x 2 = 4.
    rows = {
        CONDITIONAL: torch.full((1, 1, 1, 1, 1), 5.0),
        UNCONDITIONAL: torch.full((1, 1, 1, 1, 1), 3.0),
    }
    guidance = ClassifierFreeGuidance(GuidanceSettings(scales=(4.0, 0.5)))
    assert combined(guidance, rows, 0).item() == 11.0
    assert combined(guidance, rows, 1).item() == 4.0
    assert combined(guidance, rows, 0).shape == (1, 1, 1, 1, 1)
    off = ClassifierFreeGuidance(GuidanceSettings(scales=(1.0,)))
    assert combined(off, {CONDITIONAL: rows[CONDITIONAL]}) is rows[CONDITIONAL]
    half = combined(guidance, {branch: x.bfloat16() for branch, x in rows.items()})
    assert half.dtype == torch.float32


def test_the_scale_goes_in_a_straight_line() -> None:
    # Of 5 steps, from 4 to 2: 4, 3.5, 3, 2.5, 2; a prediction of 1 against 0 shows the scale.
    rows = {CONDITIONAL: torch.ones(1, 1, 1, 1, 1), UNCONDITIONAL: torch.zeros(1, 1, 1, 1, 1)}
    guidance = ClassifierFreeGuidance(GuidanceSettings(scales=(4.0,)), last_scale=2.0)
    scales = [combined(guidance, rows, step=step).item() for step in range(5)]
    assert scales == [4.0, 3.5, 3.0, 2.5, 2.0]
