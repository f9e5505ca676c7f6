"""Tiles of a video's pictures, shared by the decode ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from torch import Tensor
from typing_extensions import override

from longtake.comm.communicator import Communicator
from longtake.comm.mailboxes import Inbox, Outbox
from longtake.comm.p2p import Channel
from longtake.models.decoders.tiles import TileOwners
from longtake.plan.layout import Layout

_PICTURES: Final = 16
"""Tiles' pictures on their way to the rank that joins them."""


@final
class SharedTiles(TileOwners):
    """Every rank decodes every so many-th tile; the first rank joins them.

    Tiles travel as they are decoded, in fp32, so that the joined pictures are the very same as
    where one rank decodes all tiles.

    Args:
        communicator: The ranks of the run.
        channel: A channel for tensors on the CPU that nothing else uses.
        layout: Says which ranks decode.
    """

    def __init__(self, communicator: Communicator, channel: Channel, layout: Layout) -> None:
        self._count = layout.decoders
        self._index = communicator.rank - layout.mesh.size
        first, *others = range(layout.mesh.size, layout.size)
        self._outbox = Outbox(communicator, channel, first, _PICTURES, "tiles")
        self._inboxes = {
            rank - first: Inbox(communicator, channel, rank, "tiles") for rank in others
        }

    @override
    def mine(self, tiles: int) -> range:
        return range(self._index, tiles, self._count)

    @override
    def gather(self, pictures: Mapping[int, Tensor], tiles: int) -> list[Tensor] | None:
        if self._index:
            for picture in pictures.values():
                self._outbox.send(picture.cpu())
            return None
        device = pictures[0].device
        return [
            pictures[tile] if tile in pictures else self._received(tile).to(device)
            for tile in range(tiles)
        ]

    def _received(self, tile: int) -> Tensor:
        picture = self._inboxes[tile % self._count].receive()
        assert picture is not None
        return picture
