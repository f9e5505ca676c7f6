"""Mochi's VAE as a stream: diffusers' decoding of the whole video, wherever blocks are cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.mochi import MochiDecoder, MochiFamily
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.tiny.mochi import tiny_mochi_folder, tiny_mochi_spec, tiny_mochi_vae

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_mochi_folder(tmp_path_factory.mktemp("mochi"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def whole(latents: Tensor) -> Tensor:
    """Decode as the pipeline does."""
    vae = tiny_mochi_vae().to(latents.dtype)
    mean, std = (
        latents.new_tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    video: Tensor = vae.decode(latents * std / vae.config.scaling_factor + mean).sample
    return video[0].transpose(0, 1).clamp(-1, 1)


class TestMochiDecoder(VideoDecoderContract):
    def spec(self) -> BackboneSpec:
        return tiny_mochi_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return MochiDecoder(tiny_mochi_vae().to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        return whole(latents)


class TestMochiDecoderFromDisk(TestMochiDecoder):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return MochiFamily().load_decoder(self.folder, CPU, dtype)


def test_what_is_carried_does_not_grow() -> None:
    """Two frames for each convolution, as many as it looks back, and no view of more."""
    decoder = MochiDecoder(tiny_mochi_vae())
    state = decoder.start()
    carried = []
    for _ in range(3):
        list(decoder.decode(state, torch.randn(1, 4, 2, 1, 2)))
        frames = list(tensors(state.convolutions))
        assert {frame.shape[2] for frame in frames} == {2}
        carried.append(sum(frame.untyped_storage().nbytes() for frame in frames))
    assert len(frames) == 10
    assert carried[0] == carried[1] == carried[2]


def tensors(cache: object) -> Iterator[Tensor]:
    """Return the tensors of a nested cache."""
    if isinstance(cache, Tensor):
        yield cache
    elif isinstance(cache, dict):
        for part in cache.values():
            yield from tensors(part)
