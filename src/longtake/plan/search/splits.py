"""Splits of layers: how many each stage holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

from longtake.errors import ConfigurationError
from longtake.plan.cost.rundown import rundown
from longtake.plan.cost.simulator import bounded
from longtake.plan.workload import Workload


def split_layers(
    workload: Workload, pipe: int, batches: Sequence[range], means: Means | None = None
) -> tuple[range, ...]:
    """Split the layers so that the slowest stage is as fast as can be.

    All layers cost the same. The first stage embeds as well, the last one has the head. Costs are
    means over the tasks of a run. Decoding is left out: see :func:`split_layers_for_decoding`.

    Args:
        workload: The model's FLOPs and the hardware.
        pipe: Number of stages.
        batches: The guidance branches that one coordinate of the cfg axis runs as one batch each.
        means: Of the workload; ``None``: it is played now.

    Raises:
        ConfigurationError: More stages than layers.
    """
    means = means or Means.of(workload)
    return _balanced(workload.spec.layers, pipe, batches, means, decode=0.0)


def split_layers_for_decoding(
    workload: Workload, pipe: int, batches: Sequence[range], means: Means | None = None
) -> tuple[range, ...]:
    """Split the layers as :func:`split_layers` does, the first stage paying for decoding as well.

    Blocks are decoded on the output rank, in one go each, and only from when the first one is
    finished on. So this split is the better one for some videos and the worse one for others,
    which a simulation tells.

    Args:
        workload: The model's FLOPs and the hardware.
        pipe: Number of stages.
        batches: The guidance branches that one coordinate of the cfg axis runs as one batch each.
        means: Of the workload; ``None``: it is played now.

    Raises:
        ConfigurationError: More stages than layers.
    """
    means = means or Means.of(workload)
    return _balanced(workload.spec.layers, pipe, batches, means, decode=means.decode)


def _balanced(
    layers: int, pipe: int, batches: Sequence[range], means: Means, decode: float
) -> tuple[range, ...]:
    branches, first = sum(len(batch) for batch in batches), means.embed * len(batches) + decode
    counts = balance(layers, pipe, means.layer * branches, first, means.head * branches)
    return stages_of(counts)


def balance(layers: int, pipe: int, layer: float, first: float, last: float) -> tuple[int, ...]:
    """Return the number of layers of each stage, at least one, for the fastest slowest stage.

    Every layer goes to the stage that is then the cheapest. That is optimal: a stage that took
    its last layer at the highest cost of all had to, since every other stage would have come to
    at least that cost with one more. Equal stages get the remainder first, as in DualParal.

    Args:
        layers: Number of layers.
        pipe: Number of stages.
        layer: Cost of one layer.
        first: What the first stage does beside its layers.
        last: What the last stage does beside its layers.

    Raises:
        ConfigurationError: More stages than layers.
    """
    if not 1 <= pipe <= layers:
        raise ConfigurationError(
            f"{pipe} pipeline stages cannot share {layers} layers, at least one each; the possible "
            f"numbers are 1 to {layers}."
        )
    counts = [1] * pipe
    costs = [layer] * pipe
    costs[0] += first
    costs[-1] += last
    for _ in range(layers - pipe):
        stage = costs.index(min(costs))
        counts[stage] += 1
        costs[stage] += layer
    return tuple(counts)


def check_split(counts: Sequence[int], layers: int, pipe: int) -> None:
    """Refuse a split that the user has written and that does not fit the model or the stages.

    Raises:
        ConfigurationError: Names the numbers and the nearest split that fits.
    """
    if not 1 <= pipe <= layers:
        balance(layers, pipe, 1.0, 0.0, 0.0)  # says what is possible
    if len(counts) != pipe:
        wrong = f"names {len(counts)} stages, but there are {pipe}"
    elif min(counts) < 1:
        wrong = f"gives stage {counts.index(min(counts))} {min(counts)} layers; the least is 1"
    elif sum(counts) != layers:
        wrong = f"holds {sum(counts)} layers, but the model has {layers}"
    else:
        return
    raise ConfigurationError(
        f"split {list(counts)} {wrong}; the nearest split is {_nearest(counts, layers, pipe)}."
    )


def stages_of(counts: Sequence[int]) -> tuple[range, ...]:
    """Return the consecutive layers of each stage."""
    return tuple(range(start, stop) for start, stop in pairwise(accumulate(counts, initial=0)))


def _nearest(counts: Sequence[int], layers: int, pipe: int) -> list[int]:
    """Return a split that fits: layers come off the largest stages and go to the smallest."""
    near = [max(1, count) for count in counts[:pipe]]
    near += [1] * (pipe - len(near))
    while sum(near) != layers:
        if sum(near) < layers:
            near[near.index(min(near))] += 1
        else:
            near[near.index(max(near))] -= 1
    return near


@dataclass(frozen=True, slots=True)
class Means:
    """Mean seconds per task of a run, of which the costs of every split are made.

    Args:
        layer: Of one layer, per branch.
        embed: Of embedding, per batch of branches.
        head: Per branch.
        decode: Of decoding.
    """

    layer: float
    embed: float
    head: float
    decode: float

    @classmethod
    def of(cls, workload: Workload) -> Self:
        """Play a workload's first blocks."""
        workload = bounded(workload)
        flops, tokens = workload.flops, workload.tokens_per_frame
        tasks, layer, embed, head = rundown(workload), 0.0, 0.0, 0.0
        for count, forward in zip(tasks.counts, tasks.shapes, strict=True):
            window, own = forward.window, len(forward.task.own)
            queries = workload.window_tokens(len(window.frames))
            keys = workload.window_tokens(len(window.frames) + len(window.reads))
            layer += count * (flops.layer + flops.attention * keys) * queries
            embed += count * flops.embed * len(window.frames) * tokens
            head += count * flops.head * own * tokens
        scale = 1 / (len(tasks.steps) * workload.hardware.matmul)
        decode = workload.decode_seconds * sum(tasks.finished) / len(tasks.steps)
        return cls(layer * scale, embed * scale, head * scale, decode)
