"""LTX-Video's VAE as a stream: diffusers' decoding of the whole video, wherever blocks are cut."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.ltx import LTXDecoder, LTXFamily
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.contracts.decoder import EXACT
from longtake.testing.tiny.ltx import tiny_ltx_folder, tiny_ltx_spec, tiny_ltx_vae

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("norms_keep_float64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_ltx_folder(tmp_path_factory.mktemp("ltx"), conditioned=True)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def whole(vae: Any, latents: Tensor) -> Tensor:
    """Decode as the pipeline does by default, the noise inside the decoder drawn from seed 0."""
    mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    timestep = torch.zeros(1) if vae.config.timestep_conditioning else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        video: Tensor = vae.decode(
            latents * std / vae.config.scaling_factor + mean, timestep
        ).sample
    return video[0].transpose(0, 1).clamp(-1, 1)


def noise(frames: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(1, 4, frames, 1, width, generator=generator, dtype=torch.float64)


class TestLTXDecoder(VideoDecoderContract):
    height, width = 1, 2
    held_back = 5  # a picture depends on more latent frames than these
    conditioned: ClassVar[bool] = False

    def spec(self) -> BackboneSpec:
        return tiny_ltx_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return LTXDecoder(tiny_ltx_vae(conditioned=self.conditioned).to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        return whole(tiny_ltx_vae(conditioned=self.conditioned).to(latents.dtype), latents)


class TestLTXDecoderWithTimestepAndNoise(TestLTXDecoder):
    conditioned = True


class TestLTXDecoderFromDisk(TestLTXDecoder):
    conditioned = True

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return LTXFamily().load_decoder(self.folder, CPU, dtype)


def lags(vae: Any, latents: Tensor) -> tuple[list[int], Tensor]:
    """Return how many video frames are behind after every latent frame, and the video."""
    decoder, behind, video = LTXDecoder(vae), [], []
    state = decoder.start()
    for number, frame in enumerate(torch.split(latents, 1, dim=2)):
        video += list(decoder.decode(state, frame))
        behind.append(1 + 8 * number - sum(map(len, video)))
    return behind, torch.cat([*video, *decoder.finish(state)])


def test_as_many_frames_are_held_back_as_a_picture_depends_on() -> None:
    """191 with as many layers as LTX-Video 0.9.0 has, after 24 latent frames or 1,000."""
    vae = tiny_ltx_vae(
        decoder_layers_per_block=(4, 3, 3, 3, 4), decoder_block_out_channels=(8, 16, 32, 32)
    ).double()
    latents = noise(30, width=1)
    behind, video = lags(vae, latents)
    assert behind == [1 + 8 * number for number in range(24)] + [191] * 6
    expected = whole(vae, latents)
    assert video.shape == expected.shape
    assert (video - expected).abs().max() <= EXACT
    latents[:, :, 25:] += 1.0
    changed = (whole(vae, latents) != expected).flatten(1).any(dim=1)  # however little
    made_before = 1 + 8 * 24 - 191
    assert changed.tolist() == [False] * made_before + [True] * (233 - made_before)


def test_a_causal_decoder_holds_nothing_back() -> None:
    vae = tiny_ltx_vae(decoder_causal=True).double()
    latents = noise(6, width=2)
    behind, video = lags(vae, latents)
    assert set(behind) == {0}
    assert (video - whole(vae, latents)).abs().max() <= EXACT


def test_what_is_carried_does_not_grow() -> None:
    decoder = LTXDecoder(tiny_ltx_vae())
    state = decoder.start()
    sizes = []
    for _ in range(4):
        for _ in range(10):
            list(decoder.decode(state, torch.zeros(1, 4, 1, 1, 1)))
        sizes.append(tensor_bytes())
    assert sizes[1] == sizes[2] == sizes[3]


def tensor_bytes() -> int:
    """Return the size of all tensors that there are, but for those that have no numbers."""
    gc.collect()
    found = [part for part in gc.get_objects() if type(part) in (Tensor, torch.nn.Parameter)]
    tensors = [part for part in found if part.device.type != "meta"]
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage() for part in tensors}
    return sum(storage.nbytes() for storage in storages.values())
