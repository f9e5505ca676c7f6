"""Decode group at work: blocks to the ranks that decode, video frames back to the output rank.

The frames come back as bytes, a latent frame's at a time, and the output rank writes them: the
file is where the user expects it, and whatever listens to events sees one run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, final

import torch
from torch import Tensor
from torch.profiler import record_function

from longtake.caches import Forward
from longtake.comm.device_queue import HostCopies
from longtake.comm.mailboxes import BlockOutbox, Inbox, Outbox
from longtake.framework.engine.decoding import DecodedVideo, Decoding, GroupDecoding
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import AnyDecoder, Kernel
from longtake.models.decoders.tiles import AllTiles, TileOwners
from longtake.plan.ir.actions import (
    Action,
    Attend,
    Decode,
    Finish,
    Kind,
    Message,
    OfTask,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.run import decode_rank_actions, finish
from longtake.plan.ir.text import describe
from longtake.plan.layout import Layout
from longtake.strategies import ActionDone, Communicator
from longtake.strategies.pipedit.co_attention import (
    CoAttention,
    CoAttentionChannels,
    CoAttentionHelper,
    HeadDecision,
)
from longtake.strategies.pipedit.head_share import HeadShare
from longtake.strategies.pipedit.shared_tiles import SharedTiles
from longtake.strategies.runtime.activity import told
from longtake.strategies.runtime.messages import Drained, Mailbox

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
        self._communicator = communicator
        self._layout = layout
        self._timings = timings
        self._outboxes: list[BlockOutbox] = []
        self._inboxes: dict[int, Inbox] = {}
        self._handed_over: list[GroupDecoding] = []
        self._frames: Outbox | None = None
        self._copies = HostCopies(communicator.device)
        channel, output = communicator.channels[Kind.FRAMES], layout.output_rank
        if communicator.rank == output:
            for rank in range(layout.mesh.size, layout.size):
                self._inboxes[rank] = Inbox(communicator, channel, rank, "video frames")
        elif communicator.rank >= layout.mesh.size:
            self._frames = Outbox(communicator, channel, output, _PICTURES, "video frames")
        self.tiles: TileOwners = AllTiles()
        if layout.tiled:
            self.tiles = SharedTiles(communicator, communicator.host_channel(), layout)
        self.co_attention: CoAttention | None = None
        self._helping: CoAttentionHelper | None = None
        if layout.aco:
            self._co_attend(communicator, heads, kernel)

    def hand_over(self, request: int, picture: tuple[int, int, int]) -> Decoding:
        """Begin to have a video decoded (output rank).

        Args:
            request: Number of the request in the run.
            picture: Latent channels, height and width.
        """
        ranks = self._layout.decode_ranks(request)
        channel, empty = self._communicator.channels[Kind.BLOCK], _Blocks(picture)
        blocks = [BlockOutbox(self._communicator, channel, rank, empty) for rank in ranks]
        self._outboxes += blocks
        decoding = GroupDecoding(
            request,
            self._layout,
            self._communicator,
            blocks,
            self._inboxes[ranks[0]],
            self._timings,
        )
        self._handed_over = [one for one in self._handed_over if not one.is_done] + [decoding]
        return decoding

    def serve(
        self,
        request: int,
        forwards: Iterable[Forward],
        picture: tuple[int, int, int],
        decoder: AnyDecoder,
        latent_frames: int | None,
        first: int = 0,
    ) -> Iterator[ActionDone]:
        """Do this rank's actions of a request (decode rank).

        Args:
            request: Number of the request in the run.
            forwards: Of the request, in serial order.
            picture: Latent channels, height and width.
            decoder: This rank's.
            latent_frames: Of the video; ``None`` for an endless one.
            first: The first task that is run; blocks of those before it are decoded anew.
        """
        assert self._frames is not None
        rank = _DecodeRank(
            self._communicator,
            self._layout,
            request,
            _Blocks(picture),
            DecodedVideo(decoder, self._timings, latent_frames, self._copies),
            self._frames,
            self._helping,
        )
        yield from rank.run(forwards, first)

    def _co_attend(self, communicator: Communicator, heads: int, kernel: Kernel) -> None:
        """Let decode ranks attend. Collective."""
        layout, channels = self._layout, CoAttentionChannels.between(communicator)
        mesh, output = range(layout.mesh.size), layout.output_rank
        if communicator.rank not in mesh:
            served = [rank for rank in mesh if layout.helper(rank) == communicator.rank]
            self._helping = CoAttentionHelper(communicator, channels, served, kernel)
            return
        decision = None
        if communicator.rank == output:
            least = heads // layout.mesh.ulysses  # all ranks give away as many
            decision = HeadDecision(HeadShare(least, len(mesh), layout.decoders), self._is_idle)
        self.co_attention = CoAttention(
            communicator, channels, layout.helper(communicator.rank), decision
        )

    def _is_idle(self) -> bool:
        return all(decoding.is_idle for decoding in self._handed_over)

    def flush(self) -> None:
        """Wait until everything that this rank has sent is received."""
        for outbox in self._outboxes:
            outbox.flush()
        self._outboxes.clear()
        if self._frames is not None:
            self._frames.flush()


@final
class _Blocks:
    """Makes buffers of blocks.

    Args:
        picture: Latent channels, height and width.
    """

    def __init__(self, picture: tuple[int, int, int]) -> None:
        self._picture = picture

    def __call__(self, frames: int) -> Tensor:
        channels, height, width = self._picture
        return torch.empty(1, channels, frames, height, width)


@final
class _DecodeRank:
    """What one decode rank does for one request: its actions, one after another.

    Args:
        communicator: The ranks of the run.
        layout: Says which ranks decode.
        request: Number of the request in the run.
        blocks: Makes buffers of blocks.
        video: Decodes.
        frames: To the output rank.
        helping: Attends heads of the mesh, where the layout says so.
    """

    def __init__(
        self,
        communicator: Communicator,
        layout: Layout,
        request: int,
        blocks: _Blocks,
        video: DecodedVideo,
        frames: Outbox,
        helping: CoAttentionHelper | None,
    ) -> None:
        self._communicator = communicator
        self._layout = layout
        self._rank = communicator.rank
        self._request = request
        self._blocks = blocks
        self._video = video
        self._frames = frames
        self._helping = helping
        self._log = logging.getLogger(f"longtake.rank{self._rank}")
        self._mail = Mailbox(communicator, self._empty)
        self._heads = 0
        self._last: OfTask | None = None

    def run(self, forwards: Iterable[Forward], first: int) -> Iterator[ActionDone]:
        """Do every action and report it; end with what has been decoded where the video does."""
        actions = decode_rank_actions(forwards, self._request, self._layout, self._rank, first)
        try:
            for action in actions:
                yield from self._timed(action)
        except Drained as drained:
            if drained.message.kind is Kind.HEADS:
                self._drain(actions)
            if self._last is not None:
                for action in finish(self._last, self._request, self._layout, self._rank):
                    yield from self._timed(action)

    def _drain(self, actions: Iterator[Action]) -> None:
        """Wait for the answer that every rank that decodes the request gets for the next block."""
        if self._rank not in self._layout.decode_ranks(self._request):
            return
        with suppress(Drained):
            for action in actions:
                match action:
                    case Post(message=message) if message.kind is Kind.BLOCK:
                        self._mail.post(action)
                    case Receive(message=message) if message.kind is Kind.BLOCK:
                        self._mail.receive(action)

    def _timed(self, action: Action) -> Iterator[ActionDone]:
        start, name = time.perf_counter(), describe(action)
        self._log.debug(name)
        with told(self._communicator.activity, action, name, self._communicator.device):
            if isinstance(action, Decode | Finish):
                yield from self._decode(action)
                return
            with record_function(name):
                self._do(action)
        yield ActionDone(action, start, time.perf_counter())

    def _decode(self, action: Decode | Finish) -> Iterator[ActionDone]:
        """Decode, and send the frames as parts of a message that the next ``Send`` ends."""
        for item in self._video.do(action):
            match item:
                case ActionDone():
                    yield item
                case FramesDecoded(frames):
                    self._frames.send(frames)

    def _do(self, action: Action) -> None:
        match action:
            case Post():
                self._mail.post(action)
            case Receive(message=message) if message.kind is Kind.HEADS:
                self._heads = int(self._mail.receive(action))
            case Receive(message=message):
                self._video.take(message.block, self._mail.receive(action))
                self._last = message
            case Attend():
                if self._heads:
                    assert self._helping is not None
                    self._helping.attend(len(action.layers))
            case Send():
                self._frames.end()
            case _:
                raise AssertionError(f"a decode rank was to {describe(action)}")

    def _empty(self, message: Message) -> Tensor:
        if message.kind is Kind.HEADS:
            return torch.empty(1, dtype=torch.int64)
        return self._blocks(message.frames)
