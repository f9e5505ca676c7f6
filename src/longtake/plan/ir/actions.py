"""What ranks do, as data: compute, send, receive, sampler step, emit, decode.

A run's actions are compiled from its tasks (:mod:`longtake.plan.ir.compiler`), printed and read
back (:mod:`longtake.plan.ir.text`), validated, simulated, executed by a strategy and drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from longtake.caches import FeatureKey
from longtake.task import FrameRange


class Kind(StrEnum):
    """What a message carries."""

    LATENTS = "latents"
    """A window's latents ``(1, C, F, H, W)`` fp32, to the first stage of another cfg coordinate."""
    HOP = "hop"
    """Hidden states ``(branches, S, M)``, from one stage to the next."""
    PREDICTION = "prediction"
    """Some branches' prediction of the block's own frames ``(branches, C, F, H, W)``."""
    GUIDED = "guided"
    """The prediction after guidance ``(1, C, F, H, W)`` fp32, back to the output rank."""
    BLOCK = "block"
    """A finished block's latents ``(1, C, F, H, W)`` fp32, to the rank that decodes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What travels between two ranks: named by what it is, its shape known from the plan.

    Args:
        kind: What it carries.
        block: Block of the task.
        step: Step of the task.
        branches: Guidance branches in it; all of them for ``LATENTS`` and ``GUIDED``.
        frames: Latent frames ``F`` in it.
    """

    kind: Kind
    block: int
    step: int
    branches: range
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Put a window's latents together from the queue, as they stand now (output rank).

    Args:
        block: Block of the task.
        step: Step of the task.
        frames: Latent frames of the window.
        sees: The blocks whose latents it reads, each with the steps that it must have behind it.
    """

    block: int
    step: int
    frames: FrameRange
    sees: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Begin to receive a message; never waits.

    Args:
        message: Which one.
        source: The rank that sends it.
    """

    message: Message
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    """Wait until a message is here.

    Args:
        message: Which one.
        source: The rank that sends it.
    """

    message: Message
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Run the rank's layers for one batch of branches of a task: a micro-batch on one stage.

    The first stage embeds before, the last one predicts after.

    Args:
        block: Block of the task.
        step: Step of the task.
        branches: Guidance branches of the batch.
        layers: The rank's layers.
        frames: Latent frames that pass through the layers.
        context: Latent frames whose keys and values come from the store, beside ``frames``.
        own: Latent frames that are predicted.
        reads: Entries that are taken from the rank's feature store.
        keeps: Entries that are left there.
    """

    block: int
    step: int
    branches: range
    layers: range
    frames: int
    context: int
    own: int
    reads: tuple[FeatureKey, ...]
    keeps: tuple[FeatureKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine:
    """Join all branches' predictions of a task (last stage of cfg coordinate 0).

    Args:
        block: Block of the task.
        step: Step of the task.
        frames: Latent frames that are predicted.
    """

    block: int
    step: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Begin to send a message; never waits.

    Args:
        message: Which one.
        target: The rank that receives it.
    """

    message: Message
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Take a task's sampler step (output rank).

    Args:
        block: Block of the task.
        step: Step of the task.
        frames: Latent frames of the block.
    """

    block: int
    step: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Hand over a finished block (output rank); it is decoded there, or sent to a decode rank.

    Args:
        block: Which one.
        frames: Its latent frames.
    """

    block: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Decode latent frames of a block: on a decode rank, or on the output rank between tasks.

    Args:
        block: Which one.
        frames: How many of its latent frames.
    """

    block: int
    frames: int


Action: TypeAlias = Open | Post | Receive | Compute | Combine | Send | Advance | Emit | Decode
