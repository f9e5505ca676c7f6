"""Decoding pictures in tiles that overlap in space, each with a state of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.models.base import AnyDecoder, VideoDecoder
from longtake.models.spec import Compression

_PARTS: Final = 4
"""A tile fades into the next one over one of so many parts of it."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How a picture is cut into square tiles, in rows.

    Args:
        height: Latent height.
        width: Latent width.
        size: Latent positions along a tile's side.
        scale: Pixels per latent position.
    """

    height: int
    width: int
    size: int
    scale: int

    @property
    def overlap(self) -> int:
        """Latent positions in which a tile fades into the next one."""
        return self.size // _PARTS

    @property
    def tiles(self) -> list[tuple[range, range]]:
        """Rows and columns of every tile, row after row."""
        return list(product(self._spans(self.height), self._spans(self.width)))

    @property
    def largest(self) -> tuple[int, int]:
        """Latent height and width of the largest tile."""
        rows, columns = max(self.tiles, key=lambda tile: len(tile[0]) * len(tile[1]))
        return len(rows), len(columns)

    @property
    def overhead(self) -> float:
        """How much is decoded, as a multiple of the picture."""
        areas = [len(rows) * len(columns) for rows, columns in self.tiles]
        return sum(areas) / (self.height * self.width)

    def _spans(self, length: int) -> list[range]:
        """Return the tiles along one side; the last one ends with the picture."""
        starts = range(0, max(1, length - self.overlap), self.size - self.overlap)
        return [range(start, min(start + self.size, length)) for start in starts]

    def join(self, pictures: Sequence[Tensor]) -> Tensor:
        """Fade the tiles' pictures ``(frames, 3, height, width)`` into one another.

        Each tile fades into the one below and the one on its right, as diffusers' tiles do.
        """
        columns = len(self._spans(self.width))
        overlap = self.overlap * self.scale
        rows: list[list[Tensor]] = []
        for first in range(0, len(pictures), columns):
            row: list[Tensor] = []
            for column, picture in enumerate(pictures[first : first + columns]):
                if rows:
                    picture = _fade(rows[-1][column], picture, overlap, dim=2)
                if row:
                    picture = _fade(row[-1], picture, overlap, dim=3)
                row.append(picture)
            rows.append(row)
        # What a tile has in common with the next one is in the next one.
        joined = [torch.cat([*_shorter(row[:-1], overlap, 3), row[-1]], dim=3) for row in rows]
        return torch.cat([*_shorter(joined[:-1], overlap, 2), joined[-1]], dim=2)


def _shorter(pictures: Sequence[Tensor], overlap: int, dim: int) -> list[Tensor]:
    return [one.narrow(dim, 0, one.shape[dim] - overlap) for one in pictures]


def _fade(before: Tensor, picture: Tensor, overlap: int, dim: int) -> Tensor:
    """Blend the first pixels of ``picture`` with the last ones of ``before``, linearly."""
    extent = min(before.shape[dim], picture.shape[dim], overlap)
    weight = torch.arange(extent, dtype=torch.float64, device="cpu") / max(extent, 1)
    shape = [-1 if one == dim else 1 for one in range(4)]
    rising, falling = (part.view(shape).to(picture) for part in (weight, 1 - weight))
    last = before.narrow(dim, before.shape[dim] - extent, extent)
    seam = last * falling + picture.narrow(dim, 0, extent) * rising
    rest = picture.narrow(dim, extent, picture.shape[dim] - extent)
    return torch.cat((seam, rest), dim=dim)


def tile_grid(height: int, width: int, tile: int, compression: Compression) -> TileGrid:
    """Return how a picture of a latent size is cut into tiles of so many pixels.

    Raises:
        ConfigurationError: They cannot overlap by a quarter; names the nearest sizes.
    """
    step = _PARTS * compression.spatial
    if tile < step or tile % step:
        below = max(step, tile // step * step)
        raise ConfigurationError(
            f"model.vae_tile is {tile}, but it must be a multiple of {step} pixels (tiles overlap "
            f"by a quarter); the nearest are {below} and {below + step}."
        )
    return TileGrid(height, width, tile // compression.spatial, compression.spatial)


def _cut(latents: Tensor, rows: range, columns: range) -> Tensor:
    return latents[:, :, :, rows.start : rows.stop, columns.start : columns.stop]


class TileOwners(ABC):
    """Which tiles are decoded here, and where they come together."""

    @abstractmethod
    def mine(self, tiles: int) -> range:
        """Return which of so many tiles are decoded here."""

    @abstractmethod
    def gather(self, pictures: Mapping[int, Tensor], tiles: int) -> list[Tensor] | None:
        """Return all tiles' pictures, given those of this place's; ``None`` elsewhere."""


@final
class AllTiles(TileOwners):
    """Every tile is decoded here."""

    @override
    def mine(self, tiles: int) -> range:
        return range(tiles)

    @override
    def gather(self, pictures: Mapping[int, Tensor], tiles: int) -> list[Tensor]:
        return list(pictures.values())


@dataclass(slots=True)
class TiledState:
    """A decoder's state for each tile that is decoded here; none before the first latents.

    Args:
        grid: How the picture is cut.
        states: By tile.
        latent_frames: Of the whole video, if known.
    """

    grid: TileGrid | None = None
    states: dict[int, Any] = field(default_factory=dict)
    latent_frames: int | None = None


@final
class TiledDecoder(VideoDecoder[TiledState]):
    """Decode every tile as a video of its own, all of them abreast.

    What a decoder computes at once shrinks to a tile; what it carries grows by the overlap, as
    every tile has a state. Tiles fade into one another, so the pictures are not quite those of
    decoding whole ones.

    Args:
        decoder: Of pictures of any size.
        compression: Of the VAE.
        tile: Pixels along a tile's side.
        owners: Which tiles are decoded here.
    """

    def __init__(
        self, decoder: AnyDecoder, compression: Compression, tile: int, owners: TileOwners
    ) -> None:
        self._decoder = decoder
        self._compression = compression
        self._tile = tile
        self._owners = owners

    @override
    def start(self) -> TiledState:
        return TiledState()

    @override
    def start_of(self, latent_frames: int | None) -> TiledState:
        return TiledState(latent_frames=latent_frames)

    @override
    def decode(self, state: TiledState, latents: Tensor) -> Iterator[Tensor]:
        if state.grid is None:
            height, width = latents.shape[3:]
            state.grid = tile_grid(height, width, self._tile, self._compression)
            mine = self._owners.mine(len(state.grid.tiles))
            frames = state.latent_frames
            state.states = {tile: self._decoder.start_of(frames) for tile in mine}
        tiles = state.grid.tiles
        yield from self._abreast(
            state,
            [
                self._decoder.decode(one, _cut(latents, *tiles[tile]))
                for tile, one in state.states.items()
            ],
        )

    @override
    def finish(self, state: TiledState) -> Iterator[Tensor]:
        if state.grid is not None:
            ends = [self._decoder.finish(one) for one in state.states.values()]
            yield from self._abreast(state, ends)

    def _abreast(self, state: TiledState, videos: list[Iterator[Tensor]]) -> Iterator[Tensor]:
        assert state.grid is not None
        for pictures in zip(*videos, strict=True):
            mine = dict(zip(state.states, pictures, strict=True))
            whole = self._owners.gather(mine, len(state.grid.tiles))
            if whole is not None:
                yield state.grid.join(whole)
