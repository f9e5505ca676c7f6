"""CogVideoX's VAE as a stream: the batches of diffusers' own decode, wherever blocks are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.cogvideox import CogVideoXDecoder, CogVideoXFamily
from longtake.models.decoders.tiles import AllTiles, TiledDecoder
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.contracts.decoder import CUTS
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox_folder,
    tiny_cogvideox_spec,
    tiny_cogvideox_vae,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_cogvideox_folder(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Decode a whole video as the pipeline does."""
    video: Tensor = vae.decode(1 / vae.config.scaling_factor * latents, return_dict=False)[0]
    return video[0].transpose(0, 1).clamp(-1, 1)


def draw(frames: int, height: int = 2, width: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(1, 4, frames, height, width, generator=generator)


class TestCogVideoXDecoder(VideoDecoderContract):
    held_back = 2
    bit_equal = CUTS  # the batches are those of diffusers, wherever blocks are cut

    def spec(self) -> BackboneSpec:
        return tiny_cogvideox_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return CogVideoXDecoder(tiny_cogvideox_vae().to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        return decode(tiny_cogvideox_vae().to(latents.dtype), latents)


class TestCogVideoXDecoderFromDisk(TestCogVideoXDecoder):
    """Of whole pictures, as the pipeline has them, also where the VAE could cut them in tiles."""

    height, width = 7, 6

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return CogVideoXFamily().load_decoder(self.folder, CPU, dtype)

    def oracle(self, latents: Tensor) -> Tensor:
        vae = tiny_cogvideox_vae().to(latents.dtype)
        whole = decode(vae, latents)
        vae.enable_tiling()
        assert not torch.equal(decode(vae, latents), whole), "there is one tile only"
        return whole


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
def test_a_video_of_any_length_is_decoded_as_diffusers_does(
    frames: int, block: int, known: bool
) -> None:
    latents = draw(frames)
    if known:
        # Of an even number diffusers makes 4 n frames, 3 more than a video of 1 + 4 n has.
        whole = decode(tiny_cogvideox_vae(), latents)
        assert len(whole) == (4 * frames if frames % 2 == 0 else 4 * frames - 3)
        expected = whole[-(4 * frames - 3) :]
    else:  # whether the number will be even is not known when the video begins
        doubled = latents if frames % 2 else torch.cat((latents, latents[:, :, -1:]), dim=2)
        expected = decode(tiny_cogvideox_vae(), doubled)[: 4 * frames - 3]
    decoder, found = CogVideoXDecoder(tiny_cogvideox_vae()), []
    state = decoder.start_of(frames) if known else decoder.start()
    for part in torch.split(latents, block, dim=2):
        found += list(decoder.decode(state, part))
        assert state.waiting is not None
        assert state.waiting.shape[2] <= 2, "latents pile up"
    found += list(decoder.finish(state))
    assert torch.equal(torch.cat(found), expected)


def test_what_is_carried_does_not_grow() -> None:
    decoder, latents = CogVideoXDecoder(tiny_cogvideox_vae()), draw(3)
    state, sizes = decoder.start(), list[int]()
    for _ in range(4):
        list(decoder.decode(state, latents[:, :, : 3 if not sizes else 2]))
        sizes.append(sum(tensor.numel() for tensor in tensors(state.seen)))
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


@pytest.mark.parametrize("known", [4, None])
def test_a_video_that_is_stopped_is_complete_so_far(known: int | None) -> None:
    decoder = CogVideoXDecoder(tiny_cogvideox_vae())
    state = decoder.start_of(known)
    video = [*decoder.decode(state, draw(3)), *decoder.finish(state)]
    assert sum(map(len, video)) == 9


def test_tiles_know_the_length_too() -> None:
    spec, latents = tiny_cogvideox_spec(), draw(4, 8, 8)
    decoder = CogVideoXDecoder(tiny_cogvideox_vae())
    tiled = TiledDecoder(decoder, spec.compression, 8 * spec.compression.spatial, AllTiles())
    state = tiled.start_of(4)
    found = torch.cat([*tiled.decode(state, latents), *tiled.finish(state)])
    assert torch.equal(found, decode(tiny_cogvideox_vae(), latents)[3:])


def test_a_video_without_frames_ends_at_once() -> None:
    decoder = CogVideoXDecoder(tiny_cogvideox_vae())
    assert list(decoder.finish(decoder.start())) == []


def tensors(part: Any) -> Iterator[Tensor]:
    """Yield all tensors of nested lists and dictionaries."""
    if isinstance(part, Tensor):
        yield part
    elif part is not None:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from tensors(inner)
