"""CogVideoX's VAE as a stream: the batches of diffusers' own decode, wherever blocks are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.cogvideox import CogVideoXDecoder, CogVideoXFamily
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.contracts.decoder import CUTS
from longtake.testing.tiny_cogvideox import (
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
    """In tiles of 6 x 5 latent positions, which begin at every fifth row and fourth column."""

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
        return decode(vae, latents)


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_video_of_any_length_is_decoded_as_diffusers_does(frames: int, block: int) -> None:
    latents = draw(frames)
    # What diffusers makes of an even number is no video of 1 + 4 n frames: the last one is doubled.
    whole = latents if frames % 2 else torch.cat((latents, latents[:, :, -1:]), dim=2)
    expected = decode(tiny_cogvideox_vae(), whole)[: 4 * frames - 3]
    decoder, found = CogVideoXDecoder(tiny_cogvideox_vae()), []
    state = decoder.start()
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
        sizes.append(sum(tensor.numel() for tensor in tensors(state.convolutions)))
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


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
