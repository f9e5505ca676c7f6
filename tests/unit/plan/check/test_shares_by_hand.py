"""What a decode rank holds, action by action."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.plan.check.symbolic_decoder import DecoderShare
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Decode, Emit, Finish, Kind, Message, Post, Receive, Send
from longtake.plan.layout import Layout

LAYOUT = replace(Layout.serial(6, 2), decoders=3)


def message_of(block: int, frames: int = 3, kind: Kind = Kind.BLOCK) -> Message:
    return Message(kind=kind, index=block, block=block, step=1, branches=range(2), frames=frames)


def arrival(block: int, frames: int = 3, kind: Kind = Kind.BLOCK) -> Receive:
    return Receive(message=message_of(block, frames, kind), source=0)


def decode(block: int, frames: int, first: int = 0) -> Decode:
    return Decode(index=block, block=block, step=1, frames=frames, first=first)


def test_a_decode_rank_decodes_what_it_has_received_in_the_order_of_time() -> None:
    share = DecoderShare(LAYOUT, 3)
    share.do(Post(message=arrival(0).message, source=0))
    share.do(arrival(0))
    share.do(arrival(1, frames=2))
    with pytest.raises(PlanError, match="block 0 is the next"):
        share.do(decode(1, 2))
    share.do(decode(0, 1))
    share.do(decode(0, 2, first=1))
    with pytest.raises(PlanError, match="rank 3 never decodes block 1"):
        share.close()
    with pytest.raises(PlanError, match="when the video's last block is decoded"):
        share.do(Finish(index=1, block=1, step=1))
    share.do(decode(1, 2))
    with pytest.raises(PlanError, match="rank 3 never finishes the video"):
        share.close()
    with pytest.raises(PlanError, match="when the video's last block is decoded"):
        share.do(Finish(index=0, block=0, step=1))
    share.do(Finish(index=1, block=1, step=1))
    share.close()
    with pytest.raises(PlanError, match="it comes once"):
        share.do(Finish(index=1, block=1, step=1))


def test_a_decode_rank_sends_what_it_has_decoded() -> None:
    share = DecoderShare(LAYOUT, 3)
    frames = Send(message=message_of(0, kind=Kind.FRAMES), target=0)
    share.do(arrival(0))
    with pytest.raises(PlanError, match="nothing of that kind has been decoded"):
        share.do(frames)
    share.do(decode(0, 3))
    with pytest.raises(PlanError, match="or it goes elsewhere"):
        share.do(replace(frames, target=1))
    share.do(arrival(1))
    share.do(decode(1, 3))
    share.do(Send(message=message_of(1, kind=Kind.FRAMES), target=0))
    with pytest.raises(PlanError, match="nothing of that kind has been decoded"):
        share.do(Send(message=message_of(1, kind=Kind.FRAMES), target=0))


def test_a_decode_rank_decodes_nothing_else() -> None:
    share = DecoderShare(LAYOUT, 3)
    with pytest.raises(PlanError, match="the block is not here"):
        share.do(decode(0, 3))
    share.do(arrival(0))
    with pytest.raises(PlanError, match="another number of frames"):
        share.do(decode(0, 4))
    with pytest.raises(PlanError, match="0 of 3 are decoded"):
        share.do(decode(0, 1, first=1))
    emit = Emit(index=0, block=0, step=1, frames=3)
    for other in (arrival(0, kind=Kind.HOP), emit):
        with pytest.raises(PlanError, match="a decode rank receives blocks and decodes them"):
            share.do(other)
