"""Numbers that are not finite end a run, by rank, block, step and layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from longtake.errors import NumbersError
from longtake.strategies import DualParal, ParallelStrategy, SingleDevice
from longtake.strategies.runtime.finite import check_step
from longtake.testing.tiny.base import LAYERS, TinyCase, tiny_denoising

NAN: Final = math.nan
STRATEGIES: list[Callable[[], ParallelStrategy]] = [SingleDevice, DualParal]
"""The one runs without the executor, the other with it."""


Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Return a function that runs a model with a fault, and returns what is said."""

    def run(
        strategy: ParallelStrategy, part: str, layer: int = 0, calls: int = 0, value: float = NAN
    ) -> str:
        case, count = TinyCase(), 0
        work = tiny_denoising(case)
        sound = getattr(work.backbone, part)

        def spoiled(*args: Any) -> Tensor:
            nonlocal count
            output: Tensor = sound(*args)
            if part == "layer" and args[0] != layer:
                return output
            count += 1
            if count > calls:
                output = output.clone()
                output.view(-1)[-1] = value
            return output

        monkeypatch.setattr(work.backbone, part, spoiled)
        with pytest.raises(NumbersError) as refused, torch.no_grad():
            list(strategy.run(work, strategy.layout(1, case.workload), 0))
        return str(refused.value)

    return run


@pytest.mark.parametrize("make", STRATEGIES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_the_layer_is_named(
    make: Callable[[], ParallelStrategy], value: float, layer: int, refusal: Refusal
) -> None:
    said = refusal(make(), "layer", layer, value=value)
    assert said.startswith("rank 0, block 0, step 0: a number that is not finite")
    assert f"comes out of layer {layer}," in said


def test_the_block_and_the_step_are_named(refusal: Refusal) -> None:
    # FifoQueue: block 0 alone, then block 1 before it, newest first.
    said = refusal(SingleDevice(), "layer", 1, calls=2)
    assert re.match(r"rank 0, block 0, step 1: .* comes out of layer 1,", said)


@pytest.mark.parametrize("make", STRATEGIES)
def test_what_stands_before_and_behind_the_layers_is_seen(
    make: Callable[[], ParallelStrategy], refusal: Refusal
) -> None:
    assert "comes out of the embedding" in refusal(make(), "embed")
    said = refusal(make(), "head")
    assert said.startswith("rank 0, block 0, step 0:")
    assert "stands in the latents, after all layers made finite ones" in said


def test_finished_latents_are_looked_at() -> None:
    task = next(iter(TinyCase().workload.tasks()))
    check_step(3, task, torch.ones(1, 2, 3, 4, 5), last=False)
    with pytest.raises(NumbersError, match=r"rank 3, block 0, step 0"):
        check_step(3, task, torch.full((1, 2, 3, 4, 5), math.inf), last=True)
