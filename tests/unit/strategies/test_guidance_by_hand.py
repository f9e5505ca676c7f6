"""Classifier-free guidance on numbers that can be worked out in one's head."""

from __future__ import annotations

import pytest
import torch

from longtake.strategies import Guidance


@pytest.mark.parametrize(
    ("scales", "branches"),
    [((1.0,), 1), ((0.0,), 1), ((1.5,), 2), ((1.0, 1.0), 1), ((1.0, 4.0), 2), ((4.0, 0.5), 2)],
)
def test_guidance_is_off_where_no_expert_has_a_scale_above_one(
    scales: tuple[float, ...], branches: int
) -> None:
    assert Guidance(scales=scales).branches == branches


def test_branches_are_joined_with_the_scale_of_the_expert() -> None:
    # Row 0 is the prompt's: 5, row 1 the negative prompt's: 3. 3 + 4 x 2 = 11, 3 + 0.5 x 2 = 4.
    predictions = torch.tensor([5.0, 3.0]).reshape(2, 1, 1, 1, 1)
    guidance = Guidance(scales=(4.0, 0.5))
    assert guidance.combine(predictions, 0).item() == 11.0
    assert guidance.combine(predictions, 1).item() == 4.0
    assert guidance.combine(predictions, 0).shape == (1, 1, 1, 1, 1)
    alone = predictions[:1]
    assert Guidance(scales=(1.0,)).combine(alone, 0) is alone
    half = guidance.combine(predictions.bfloat16(), 0)
    assert half.dtype == torch.float32
