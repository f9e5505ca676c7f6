"""Memory of a run by part and rank: sums of what is held at the same time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from longtake.models.footprint import Footprint
from longtake.plan.cost.rundown import Widest
from longtake.plan.cost.simulator import bounded, message_bytes
from longtake.plan.ir.actions import Kind, Message
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis
from longtake.plan.walk import walk_of
from longtake.plan.workload import Workload

_LATENTS: Final = 4
"""Tensors of a frame in flight: its latents, and what a multistep solver remembers."""
_EXCHANGED: Final = 6
"""Queries, keys and values of a rank's tokens, before and after an exchange of heads."""
_TURNING: Final = 4
"""Keys and values of a rank's tokens, its own and those that come round a ring."""
_FP32: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on one rank's device, and in its host's memory.

    Args:
        weights: Of the rank's layers.
        kv: Keys and values that the feature cache holds.
        activations: Of the layer that has the most at once, with the keys and values it gathers.
        messages: To and from other ranks.
        latents: Of the frames in flight.
        vae: The decoder's weights and its state.
        vae_peak: What decoding a latent frame takes besides.
        text: Text encoders, which are gone before anything else is there.
        start: Encoders of given frames, likewise.
        host: In the host's memory, while the text encoders are read.
        beside: Activations of tasks that run while the rank decodes; 0 where these take turns.
    """

    weights: int
    kv: int
    activations: int
    messages: int
    latents: int
    vae: int
    vae_peak: int
    text: int
    start: int
    host: int
    beside: int = 0

    @property
    def running(self) -> int:
        """The most while videos are made: a rank computes or decodes, or does both at once."""
        held = self.weights + self.kv + self.messages + self.latents + self.vae
        return held + max(self.activations, self.beside + self.vae_peak)

    @property
    def peak(self) -> int:
        """The most of the whole run."""
        return max(self.text, self.start, self.running)


def rank_memory(
    workload: Workload,
    layout: Layout,
    rank: int,
    footprint: Footprint,
    window: Widest,
    *,
    weights: int,
    kv: int,
    starts: bool,
    later: Widest | None = None,
) -> RankMemory:
    """Return what a rank holds.

    Args:
        workload: What is made.
        layout: Which rank holds and runs what.
        rank: Whose memory.
        footprint: Of the model's parts.
        window: The workload's largest.
        weights: Bytes of the rank's part of the transformer.
        kv: Bytes of what its feature cache holds at most.
        starts: Whether the video goes on from given frames.
        later: The largest window after the first block has come out; ``None``: there is none.
    """
    output, mesh = rank == layout.output_rank, rank < layout.mesh.size
    decodes = not mesh or (output and not layout.decoders)
    tiles = -(-workload.tiles // (layout.decoders if layout.tiled else 1))
    text = footprint.text if output else 0
    cpu = workload.hardware.cpu
    beside = 0
    if cpu and layout.size == 1 and later is not None:  # decodes in a thread
        beside = _activations(workload, layout, rank, footprint, later)
    vae_peak = footprint.decoder_peak + (footprint.decoder_workspace if cpu else 0)
    return RankMemory(
        weights=weights if mesh else 0,
        kv=kv if mesh else 0,
        activations=_activations(workload, layout, rank, footprint, window) if mesh else 0,
        messages=_messages(workload, layout, rank, window) if mesh else 0,
        latents=_latents(workload) if output else 0,
        vae=footprint.decoder + tiles * footprint.decoder_state if decodes else 0,
        vae_peak=vae_peak if decodes else 0,
        text=text,
        start=footprint.start if output and starts else 0,
        host=text,
        beside=beside,
    )


def reused_bytes(workload: Workload, layout: Layout, rank: int, window: Widest) -> int:
    """Return the bytes that a rank keeps so that layers can be reused.

    Hidden states of each window in flight, and what each has left in the feature cache, which
    outlives its readers until the block's next step.
    """
    if not workload.reuses:
        return 0
    coordinate = layout.mesh.coordinate(rank)
    stage, cfg = coordinate[Axis.PIPE], coordinate[Axis.CFG]
    numbers = -(-workload.window_tokens(window.frames) // layout.sequence)
    numbers *= workload.spec.model_dim
    first = _FP32 if stage == 0 and cfg == 0 else 0  # of the prompt's branch
    branches = sum(map(len, layout.batches_at(cfg)))
    rest = branches * workload.item_bytes if stage == layout.mesh.pipe - 1 else 0
    left = _left_frames(workload) * frame_bytes(workload, layout, rank)
    return _windows(workload) * numbers * (first + rest) + left


def frame_bytes(workload: Workload, layout: Layout, rank: int) -> int:
    """Return the bytes of a latent frame's keys and values in a rank's layers and branches.

    Under Ulysses a rank keeps those of its heads; of the ranks of a ring one may have all tokens
    of a frame.
    """
    coordinate, spec = layout.mesh.coordinate(rank), workload.spec
    branches = sum(len(batch) for batch in layout.batches_at(coordinate[Axis.CFG]))
    heads = -(-spec.heads // layout.mesh.ulysses)
    per_layer = 2 * workload.tokens_per_frame * heads * spec.head_dim * workload.item_bytes
    return per_layer * len(layout.layers(rank)) * branches


def _left_frames(workload: Workload) -> int:
    """Return how many latent frames' keys and values an iteration's tasks leave at most."""
    left = Counter[int]()
    for forward in walk_of(bounded(workload)):
        left[forward.task.iteration] += len(forward.window.keeps)
    return max(left.values())


def _windows(workload: Workload) -> int:
    """Return how many windows an iteration has at most."""
    walk = walk_of(bounded(workload))
    return max(Counter(forward.task.iteration for forward in walk).values())


def _batch(layout: Layout, rank: int) -> int:
    """Return the branches of the largest micro-batch."""
    return max(map(len, layout.batches_at(layout.mesh.coordinate(rank)[Axis.CFG])))


def _activations(
    workload: Workload, layout: Layout, rank: int, footprint: Footprint, window: Widest
) -> int:
    branches, spec = _batch(layout, rank), workload.spec
    own = -(-workload.window_tokens(window.frames) // layout.sequence)
    gathered = 0
    if window.context:  # joined with the window's own for the kernel
        tokens = workload.window_tokens(window.frames + window.context)
        heads = -(-spec.heads // layout.mesh.ulysses)
        gathered = 2 * -(-tokens // layout.mesh.ring) * heads * spec.head_dim * workload.item_bytes
    return branches * (int(own * footprint.activation) + gathered)


def _messages(workload: Workload, layout: Layout, rank: int, window: Widest) -> int:
    branches, mesh = _batch(layout, rank), layout.mesh
    hop = Message(
        kind=Kind.HOP, index=0, block=0, step=0, branches=range(branches), frames=window.frames
    )
    states = message_bytes(workload, hop, layout.sequence)  # of a rank's tokens
    copies = 2 * (mesh.pipe > 1) + _EXCHANGED * (mesh.ulysses > 1) + _TURNING * (mesh.ring > 1)
    return copies * states


def _latents(workload: Workload) -> int:
    first = bounded(workload)
    lengths = [len(block) for block in first.scheduler.blocks(first.latent_frames)]
    count = workload.blocks_in_flight
    frames = max(sum(lengths[block : block + count]) for block in range(len(lengths)))
    size = workload.spec.channels * workload.height * workload.width
    return _LATENTS * frames * size * _FP32
