"""HunyuanVideo 1.5's VAE as a stream: diffusers' own decoding, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15AttnBlock
from torch import Tensor

from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.hunyuan_video15 import HunyuanVideo15Decoder, HunyuanVideo15Family
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.contracts.decoder import EXACT
from longtake.testing.tiny.hunyuan_video15 import (
    tiny_hunyuan15_folder,
    tiny_hunyuan15_spec,
    tiny_hunyuan15_vae,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_hunyuan15_folder(tmp_path_factory.mktemp("hunyuan15"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def whole(vae: Any, latents: Tensor) -> Tensor:
    video: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return video[0].transpose(0, 1).clamp(-1, 1)


def noise(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(1, 4, frames, 2, 3, generator=generator, dtype=torch.float64)


class TestHunyuanVideo15Decoder(VideoDecoderContract):
    def spec(self) -> BackboneSpec:
        return tiny_hunyuan15_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return HunyuanVideo15Decoder(tiny_hunyuan15_vae().to(dtype), window=5)

    def oracle(self, latents: Tensor) -> Tensor:
        return whole(tiny_hunyuan15_vae().to(latents.dtype), latents)


class TestHunyuanVideo15DecoderFromDisk(TestHunyuanVideo15Decoder):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return HunyuanVideo15Family().load_decoder(self.folder, torch.device("cpu"), dtype)


def test_a_clip_of_the_models_own_length_is_decoded_as_diffusers_does(folder: ModelFolder) -> None:
    frames = HunyuanVideo15Family().spec(folder).native_frames
    decoder = HunyuanVideo15Family().load_decoder(folder, torch.device("cpu"), torch.float64)
    found = torch.cat(list(decoder.decode(decoder.start(), noise(frames))))
    expected = whole(tiny_hunyuan15_vae().double(), noise(frames))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("changes", [{"upsample_match_channel": False}, {"layers_per_block": 2}])
def test_other_shapes_of_the_vae(changes: dict[str, Any]) -> None:
    """Without matching channels, some layers have a shortcut of their own."""
    vae = tiny_hunyuan15_vae(**changes).double()
    decoder = HunyuanVideo15Decoder(vae, window=4)
    found = torch.cat(list(decoder.decode(decoder.start(), noise(4))))
    torch.testing.assert_close(found, whole(vae, noise(4)), rtol=0, atol=EXACT)


def test_a_longer_video_looks_back_as_far_as_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole video's decoding under a mask that hides what is further away."""
    window, vae = 3, tiny_hunyuan15_vae().double()
    mask = HunyuanVideo15AttnBlock.prepare_causal_attention_mask

    def banded(n_frame: int, n_hw: int, *place: Any, **options: Any) -> Tensor:
        at = torch.arange(n_frame * n_hw) // n_hw
        far = at[:, None] - at[None] >= window
        causal: Tensor = mask(n_frame, n_hw, *place, **options)
        return causal.masked_fill(far, float("-inf"))

    unlimited = whole(vae, noise(8))
    monkeypatch.setattr(
        HunyuanVideo15AttnBlock, "prepare_causal_attention_mask", staticmethod(banded)
    )
    expected = whole(vae, noise(8))
    assert not torch.allclose(expected, unlimited, atol=1e-2), "the window hides nothing"
    decoder = HunyuanVideo15Decoder(vae, window)
    found = torch.cat(list(decoder.decode(decoder.start(), noise(8))))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def test_what_is_carried_does_not_grow() -> None:
    decoder = HunyuanVideo15Decoder(tiny_hunyuan15_vae(), window=3)
    state, sizes = decoder.start(), []
    for frame in torch.split(noise(9), 1, dim=2):
        list(decoder.decode(state, frame))
        tensors = [*state.seen.values(), *(kept for pair in state.kept.values() for kept in pair)]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    assert sizes[0] < sizes[2] < sizes[3]  # the last growth: a frame beyond the window, cut off
    assert set(sizes[3:]) == {sizes[3]}
