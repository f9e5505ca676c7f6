"""Passes over memory and what a CPU's convolutions take, by hand."""

from __future__ import annotations

import torch
from torch.nn import functional

from longtake.models.passes import Passes, unfolded
from longtake.models.peak import PeakMemory

META = torch.device("meta")


def test_operations_read_and_write_and_views_and_products_do_not() -> None:
    states, weight = torch.ones(10, 20), torch.ones(20, 30)  # 800 and 2,400 bytes
    with Passes() as passes:
        product = states.view(5, 2, 20).view(10, 20) @ weight  # 1,200 bytes, not moved
        assert (passes.moved, passes.calls) == (0, 1)
        doubled = product + product  # reads two, writes one
        doubled.mul_(2.0)  # reads one; writes it, which is its result
        torch.empty_like(doubled)
    assert (passes.moved, passes.calls) == (3 * 1_200 + 2 * 1_200, 3)
    bias = torch.ones(30)
    with Passes() as passes:
        functional.linear(states, weight.T.contiguous(), bias)
    assert passes.moved == 2_400 * 2 + 1_200, "the copy, and the bias in each row"


def test_small_convolutions_are_unfolded_on_a_cpu() -> None:
    kernel = torch.empty(5, 3, 3, 3, 3, device=META)
    small = torch.empty(1, 3, 4, 10, 10, device=META)  # results of 2 x 8 x 8 positions
    large = torch.empty(1, 3, 4, 1800, 4, device=META)  # 1 x 3 x 4 x 1,800 = 21,600 numbers
    with Passes() as passes, PeakMemory() as memory:
        result = functional.conv3d(small, kernel)
    matrix = 2 * 8 * 8 * 3 * 27 * 4
    assert (passes.moved, passes.unfolded) == (0, matrix)
    assert memory.cpu_peak - memory.peak == matrix
    assert memory.peak == result.nbytes
    with Passes() as passes, PeakMemory() as memory:
        result = functional.conv3d(large, kernel)
    assert passes.unfolded == 0
    assert passes.thin == 2 * 3 * 27 * result.numel() / 3
    assert memory.cpu_peak - memory.peak == large.nbytes + result.nbytes, "in another order"


def test_which_convolutions_pytorch_unfolds() -> None:
    """As its profile of real ones says."""
    for height in (32, 66, 130):
        frames, kernel = torch.ones(1, 32, 6, height, 8), torch.ones(4, 32, 3, 3, 3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            functional.conv3d(frames, kernel)
        names = {event.name for event in profile.events() or ()}
        args = (frames, kernel, None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)
        assert unfolded(args) == ("aten::slow_conv3d_forward" in names)
