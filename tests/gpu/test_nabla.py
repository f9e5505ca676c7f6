"""Nabla's attention on a GPU, by compiled flex attention, against attention with a mask."""

from __future__ import annotations

import pytest
import torch

from longtake.models.kandinsky5.nabla import attend_squares

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("squares", [(24, 36), (24, 60)])
def test_flex_attention_sees_the_chosen_squares_alone(squares: tuple[int, int]) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, 64 * count, 4, 64, device="cuda", generator=generator)
        for count in (squares[0], squares[1], squares[1])
    )
    seen = torch.rand(1, 4, *squares, device="cuda", generator=generator) < 0.3
    seen[..., 0] = True
    found = attend_squares(q, k, v, seen).cpu()
    expected = attend_squares(*(x.cpu() for x in (q, k, v, seen)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)  # TF32 on the device
