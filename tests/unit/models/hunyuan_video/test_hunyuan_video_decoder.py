"""HunyuanVideo's VAE as a stream: diffusers' own tiles, wherever blocks are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.hunyuan_video import HunyuanVideoFamily, hunyuan_video_decoder
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.contracts.decoder import CUTS
from longtake.testing.tiny.hunyuan_video import (
    tiny_hunyuan_folder,
    tiny_hunyuan_spec,
    tiny_hunyuan_vae,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan_folder(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestHunyuanVideoDecoder(VideoDecoderContract):
    held_back = 3
    bit_equal = CUTS  # the tiles are those of diffusers, wherever blocks are cut

    def spec(self) -> BackboneSpec:
        return tiny_hunyuan_spec()

    def vae(self) -> Any:
        # Tiles of 3 latent frames, one starting at each frame: 5 frames make several.
        vae = tiny_hunyuan_vae()
        vae.enable_tiling(tile_sample_min_num_frames=8, tile_sample_stride_num_frames=4)
        return vae

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return hunyuan_video_decoder(self.vae().to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        vae = self.vae().to(latents.dtype)
        video: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return video[0].transpose(0, 1).clamp(-1, 1)


class TestHunyuanVideoDecoderFromDisk(TestHunyuanVideoDecoder):
    """With diffusers' tiles along time, and whole pictures, which is what it has by default."""

    held_back = 4
    height, width = 2, 34

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def vae(self) -> Any:
        return tiny_hunyuan_vae()

    def oracle(self, latents: Tensor) -> Tensor:
        whole, tiled = super().oracle(latents), tiny_hunyuan_vae()
        tiled.to(latents.dtype).enable_tiling()
        cut = tiled.decode(latents / tiled.config.scaling_factor, return_dict=False)[0]
        assert not torch.equal(cut[0].transpose(0, 1).clamp(-1, 1), whole), "there is one tile"
        return whole

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return HunyuanVideoFamily().load_decoder(self.folder, CPU, dtype)


@pytest.mark.parametrize("frames", range(1, 14))
def test_a_video_of_any_length_is_decoded_as_diffusers_does(frames: int) -> None:
    latents = torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(frames))
    suite = TestHunyuanVideoDecoder()
    for vae in (tiny_hunyuan_vae(), suite.vae()):
        expected = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        decoder, found = hunyuan_video_decoder(vae), []
        state = decoder.start()
        for block in torch.split(latents, 2, dim=2):
            found += list(decoder.decode(state, block))
            assert state.waiting is not None
            assert state.waiting.shape[2] <= 4, "latents pile up"
        found += list(decoder.finish(state))
        video = torch.cat(found)
        assert len(video) == 4 * (frames - 1) + 1
        assert torch.equal(video, expected[0].transpose(0, 1).clamp(-1, 1))
