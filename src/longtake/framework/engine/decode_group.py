"""The decode group at work: blocks to the ranks that decode, video frames back to the output rank.

The frames come back as bytes, a latent frame's at a time, and the output rank writes them: the
file is where the user expects it, and whatever listens to events sees one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final, final

import torch

from longtake.comm.mailboxes import Inbox, Outbox
from longtake.framework.engine.decoding import (
    DECODED,
    Decoded,
    Decoding,
    GroupDecoding,
    OwnDecoding,
)
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import AnyDecoder, Kernel
from longtake.models.decoders.tiles import AllTiles, TileOwners
from longtake.plan.layout import Layout
from longtake.strategies import ActionDone, Communicator
from longtake.strategies.pipedit.co_attention import (
    WORD,
    WORDS,
    CoAttention,
    CoAttentionChannels,
    CoAttentionHelper,
    Decision,
    HeardDecision,
    OwnDecision,
)
from longtake.strategies.pipedit.head_share import HeadShare
from longtake.strategies.pipedit.shared_tiles import SharedTiles

_BLOCKS: Final = 2
"""Blocks on their way to a decode rank: when it lags further behind, the mesh waits for it."""
_PICTURES: Final = 16
"""Latent frames' worth of video on its way back: the output rank looks for it between tasks."""


@final
class DecodeGroup:
    """One rank's side of the decode group. Making it is collective.

    Args:
        communicator: The ranks of the run.
        layout: Says which ranks decode.
        heads: Attention heads of the model.
        kernel: The attention kernel of one device.
        timings: Gets the seconds of part ``decode``.
    """

    def __init__(
        self,
        communicator: Communicator,
        layout: Layout,
        heads: int,
        kernel: Kernel,
        timings: Timings,
    ) -> None:
        self._layout = layout
        self._rank = communicator.rank
        self._timings = timings
        self._outboxes: dict[int, Outbox] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._handed_over: list[GroupDecoding] = []
        blocks, frames = communicator.host_channel(), communicator.host_channel()
        output = layout.output_rank
        if communicator.rank == output:
            for rank in range(layout.mesh.size, layout.size):
                self._outboxes[rank] = Outbox(
                    communicator, blocks, rank, _BLOCKS, "a finished block"
                )
                self._inboxes[rank] = Inbox(communicator, frames, rank, "video frames")
        elif communicator.rank >= layout.mesh.size:
            self._outboxes[output] = Outbox(communicator, frames, output, _PICTURES, "video frames")
            self._inboxes[output] = Inbox(communicator, blocks, output, "a finished block")
        self.tiles: TileOwners = AllTiles()
        if layout.tiled:
            self.tiles = SharedTiles(communicator, communicator.host_channel(), layout)
        self.co_attention: CoAttention | None = None
        self._helping: CoAttentionHelper | None = None
        if layout.aco:
            self._co_attend(communicator, heads, kernel)

    def hand_over(self, video: int) -> Decoding:
        """Begin to have the run's ``video``-th video decoded (output rank)."""
        ranks = self._layout.decode_ranks(video)
        mine = [self._outboxes[rank] for rank in ranks]
        others = [outbox for rank, outbox in self._outboxes.items() if rank not in ranks]
        decoding = GroupDecoding(mine, others, self._inboxes[ranks[0]], self._timings)
        self._handed_over = [one for one in self._handed_over if not one.is_done] + [decoding]
        return decoding

    def serve(
        self, video: int, decoder: AnyDecoder, latent_frames: int | None
    ) -> Iterator[ActionDone]:
        """Do what the mesh asks for during a video, and decode it if it is this rank's.

        Args:
            video: Number of the video in the run.
            decoder: This rank's.
            latent_frames: Of the video; ``None`` for an endless one.
        """
        output, ranks = self._layout.output_rank, self._layout.decode_ranks(video)
        asked, outbox = self._inboxes[output], self._outboxes[output]
        decoding = OwnDecoding(decoder, self._timings, at_once=True, latent_frames=latent_frames)
        while (message := asked.receive()) is not None:
            if self._helping is not None and message.dtype == torch.int64:
                self._helping.attend(int(message))
                continue
            yield from _send(chain(decoding.take(message), decoding.some()), outbox)
            if self._rank == ranks[0]:
                outbox.send(torch.tensor(DECODED))
        if self._rank in ranks:
            decoding.end()
            yield from _send(decoding.some(), outbox)
        if self._rank == ranks[0]:
            outbox.end()

    def _co_attend(self, communicator: Communicator, heads: int, kernel: Kernel) -> None:
        """Let decode ranks attend. Collective."""
        layout, channels = self._layout, CoAttentionChannels.between(communicator)
        mesh, output = range(layout.mesh.size), layout.output_rank
        if communicator.rank not in mesh:
            served = [rank for rank in mesh if layout.helper(rank) == communicator.rank]
            self._helping = CoAttentionHelper(communicator, channels, served, kernel)
            return
        decision: Decision = HeardDecision(Inbox(communicator, channels.words, output, WORD))
        if communicator.rank == output:
            least = heads // layout.mesh.ulysses  # all ranks give away as many
            decision = OwnDecision(
                HeadShare(least, len(mesh), layout.decoders),
                [
                    Outbox(communicator, channels.words, rank, WORDS, WORD)
                    for rank in mesh
                    if rank != output
                ],
                self._call,
                self._is_idle,
            )
        self.co_attention = CoAttention(
            communicator, channels, layout.helper(communicator.rank), decision
        )

    def _call(self, calls: int) -> None:
        for outbox in self._outboxes.values():
            outbox.send(torch.tensor(calls))

    def _is_idle(self) -> bool:
        return all(decoding.is_idle for decoding in self._handed_over)

    def flush(self) -> None:
        """Wait until everything that this rank has sent is received."""
        for outbox in self._outboxes.values():
            outbox.flush()


def _send(decoded: Iterator[Decoded], outbox: Outbox) -> Iterator[ActionDone]:
    for item in decoded:
        match item:
            case ActionDone():
                yield item
            case FramesDecoded(frames):
                outbox.send(frames)
