"""Sequence parallelism's cost: what sharing a window's tokens saves, what the exchange costs."""

from __future__ import annotations

from longtake.plan.ir.actions import Compute
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload


def _projection_seconds(layout: Layout, workload: Workload, action: Compute) -> float:
    """Return how long a rank takes to project its queries in a layer, or its keys, or values."""
    tokens = workload.window_tokens(action.frames) / layout.sequence
    return 2 * len(action.branches) * tokens * workload.spec.model_dim**2 / workload.hardware.matmul


def attention_share(layout: Layout, heads: int) -> float:
    """Return the largest share of a layer's self-attention that a rank computes."""
    ulysses = layout.mesh.ulysses
    return -(-heads // ulysses) / heads / layout.mesh.ring


def ulysses_bytes(layout: Layout, workload: Workload, action: Compute) -> tuple[float, float]:
    """Return the bytes that a rank sends per layer before and after attention.

    With ``S`` tokens, ``U`` ranks in the group and ``P`` that share the window, ``B`` branches and
    model dim ``M``, in numbers: ``3 B S M (U - 1) / (P U)`` before attention (queries, keys and
    values of the own tokens, without the own heads) and ``B S M (U - 1) / (P U)`` after it.
    """
    ulysses = layout.mesh.ulysses
    tokens = workload.window_tokens(action.frames) / layout.sequence
    numbers = len(action.branches) * tokens * workload.spec.model_dim * (ulysses - 1) / ulysses
    return 3 * numbers * workload.item_bytes, numbers * workload.item_bytes


def ring_bytes(layout: Layout, workload: Workload, action: Compute) -> float:
    """Return the bytes that a rank passes on in one turn: its part of the keys and values.

    ``2 B (S + C) M / (R U)`` numbers, ``C`` being the tokens of cached context; a layer has
    ``R - 1`` turns.
    """
    keys = workload.window_tokens(action.frames + action.context) / layout.sequence
    return 2 * len(action.branches) * keys * workload.spec.model_dim * workload.item_bytes


def packed_bytes(layout: Layout, workload: Workload) -> float:
    """Return the bytes that an exchange of heads reads and writes on its rank, per own token.

    Of queries, keys, values and the result: what stays is put into its place, what goes is put
    into a message, and what comes taken out of one.
    """
    ulysses = layout.mesh.ulysses
    if ulysses == 1:
        return 0.0
    times = 1 / ulysses + 2 * (1 - 1 / ulysses)
    return 4 * times * 2 * workload.spec.model_dim * workload.item_bytes


def layer_bytes(layout: Layout, workload: Workload, action: Compute) -> float:
    """Return the bytes that a rank sends to those with which it shares its tokens, per layer."""
    turns = layout.mesh.ring - 1
    return sum(ulysses_bytes(layout, workload, action)) + turns * ring_bytes(
        layout, workload, action
    )


def exchange_seconds(
    layout: Layout, workload: Workload, action: Compute, attention: float
) -> float:
    """Return how much longer a layer takes because of the exchange.

    Args:
        layout: Which rank holds and runs what.
        workload: The model's FLOPs and the hardware.
        action: The micro-batch.
        attention: Seconds that the rank's attention takes in a layer.
    """
    hardware, seconds = workload.hardware, 0.0
    if layout.mesh.ulysses > 1:
        link = hardware.links_among(layout.mesh.ulysses)
        before, after = (size / link.bandwidth for size in ulysses_bytes(layout, workload, action))
        messages, hidden = 2, 0.0
        if layout.chunks > 1:
            messages = 3 + layout.chunks
            # Two of queries, keys and values travel while the next is projected, ...
            hidden = 2 * min(before / 3, _projection_seconds(layout, workload, action))
            # ... and all chunks of the result but the last while the next is attended.
            hidden += (1 - 1 / layout.chunks) * min(after, attention)
        seconds += before + after + messages * link.latency - hardware.hiding * hidden
    if layout.mesh.ring > 1:
        link = hardware.links_among(layout.sequence)
        turn = ring_bytes(layout, workload, action) / link.bandwidth + link.latency
        seconds += (layout.mesh.ring - 1) * max(0.0, turn - attention / layout.mesh.ring)
    return seconds
