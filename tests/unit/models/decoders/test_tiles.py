"""Tiles in space: diffusers' own tiled decode, as a stream, whoever decodes which tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.models import AnyDecoder, BackboneSpec, Compression
from longtake.models.decoders.tiles import AllTiles, TiledDecoder, TileGrid, TileOwners, tile_grid
from longtake.models.wan import WanDecoder
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.tiny.base import CHANNELS, tiny_wan_spec, tiny_wan_vae, wan_pictures

EIGHTH = Compression(temporal=4, spatial=8)
HEIGHT, WIDTH, TILE = 12, 17, 64
"""Latent size and pixels of a tile: 8 latent positions, 6 apart, so nothing divides."""


def vae_of_faint_pictures(dtype: torch.dtype = torch.float32) -> Any:
    """Return a VAE whose pictures stay within bounds: tiles are clamped before they fade."""
    vae = tiny_wan_vae()
    vae.decoder.conv_out.weight.mul_(0.2)
    vae.decoder.conv_out.bias.mul_(0.2)
    return vae.to(dtype)


def whole(dtype: torch.dtype = torch.float32) -> WanDecoder:
    return WanDecoder(vae_of_faint_pictures(dtype))


def tiled(owners: TileOwners | None = None, dtype: torch.dtype = torch.float32) -> TiledDecoder:
    return TiledDecoder(whole(dtype), EIGHTH, TILE, owners or AllTiles())


def latents(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CHANNELS, frames, HEIGHT, WIDTH, generator=generator)


def video(decoder: AnyDecoder, z: Tensor, cuts: list[int]) -> Tensor:
    state = decoder.start()
    with torch.no_grad():
        parts = [
            part for block in torch.split(z, cuts, dim=2) for part in decoder.decode(state, block)
        ]
        return torch.cat([*parts, *decoder.finish(state)])


def diffusers_tiles(z: Tensor) -> Tensor:
    """Decode a whole video as diffusers does with tiling."""
    vae, stride = vae_of_faint_pictures(), TILE * 3 // 4
    vae.enable_tiling(TILE, TILE, stride, stride)
    pictures = wan_pictures(vae, z)
    assert pictures.abs().max() < 1
    return pictures


@pytest.mark.usefixtures("upsampling_keeps_float64")
class TestTiledDecoder(VideoDecoderContract):
    height, width = HEIGHT, WIDTH

    def spec(self) -> BackboneSpec:
        return tiny_wan_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return tiled(dtype=dtype)

    def oracle(self, latents: Tensor) -> Tensor:
        return diffusers_tiles(latents)


def test_tiles_leave_a_trace() -> None:
    z = latents(3)
    assert not torch.allclose(video(tiled(), z, [3]), video(whole(), z, [3]), atol=1e-3)


class Half(TileOwners):
    """Every other tile; those of the other half are taken from its list."""

    def __init__(self, first: int, others: list[Tensor] | None = None) -> None:
        self.first = first
        self.others = others
        self.given: list[Tensor] = []

    def mine(self, tiles: int) -> range:
        return range(self.first, tiles, 2)

    def gather(self, pictures: Mapping[int, Tensor], tiles: int) -> list[Tensor] | None:
        if self.others is None:
            self.given.extend(pictures.values())
            return None
        rest = {tile: self.others.pop(0) for tile in range(1 - self.first, tiles, 2)}
        return [pictures[tile] if tile in pictures else rest[tile] for tile in range(tiles)]


def test_tiles_may_be_decoded_in_different_places() -> None:
    z = latents(3)
    other = Half(1)
    state = (decoder := tiled(other)).start()
    with torch.no_grad():
        assert list(decoder.decode(state, z)) == []
    found = video(tiled(Half(0, other.given)), z, [3])
    assert torch.equal(found, video(tiled(), z, [3]))


def test_a_picture_smaller_than_a_tile_is_decoded_whole() -> None:
    z = latents(2)[..., :6, :6]
    assert torch.equal(video(tiled(), z, [2]), video(whole(), z, [2]))


@pytest.mark.parametrize(("height", "width"), [(12, 17), (8, 8), (9, 14), (3, 40)])
def test_tiles_cover_the_picture(height: int, width: int) -> None:
    grid = TileGrid(height, width, 8, 8)
    seen = torch.zeros(height, width)
    for rows, columns in grid.tiles:
        seen[rows.start : rows.stop, columns.start : columns.stop] += 1
    assert seen.min() == 1
    assert grid.overhead == pytest.approx(seen.mean().item())
    assert all(len(part) > 2 for tile in grid.tiles for part in tile), "a tile is all overlap"


def test_pictures_that_agree_are_joined_as_they_are() -> None:
    grid = TileGrid(9, 14, 8, 1)
    picture = torch.rand(2, 3, 9, 14)
    parts = [
        picture[:, :, rows.start : rows.stop, columns.start : columns.stop]
        for rows, columns in grid.tiles
    ]
    torch.testing.assert_close(grid.join(parts), picture)


def test_sizes_that_do_not_overlap_by_a_quarter_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"vae_tile is 50, .*multiple of 32.*32 and 64"):
        tile_grid(HEIGHT, WIDTH, 50, EIGHTH)
