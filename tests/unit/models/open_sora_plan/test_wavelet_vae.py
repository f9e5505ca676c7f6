"""Open-Sora-Plan's wavelet VAE: equal to recorded tensors, its contract, its encoder."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.models import AnyDecoder, BackboneSpec, ModelFolder
from longtake.models.open_sora_plan import OpenSoraPlanFamily
from longtake.models.open_sora_plan.wavelet_vae import (
    WaveletDecoder,
    WaveletEncoder,
    WaveletVae,
    WaveletVaeConfig,
)
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.tiny.open_sora_plan import (
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_spec,
    tiny_wavelet_vae,
)

CPU = torch.device("cpu")
CASE = Path(__file__).parents[3] / "cases" / "wavelet-vae" / "tiny.safetensors"
"""Made by the published code: weights, latents and their video, a video and its moments."""
RECORDED = 1e-5
"""Largest difference from it, as a share of the expected spread: fp32 in another order."""


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return dict(load_file(CASE))


@pytest.fixture(scope="module")
def published(recorded: dict[str, Tensor]) -> WaveletVae:
    with safe_open(CASE, framework="pt") as reader:
        config = literal_eval(reader.metadata()["config"])
    vae = WaveletVae(WaveletVaeConfig.read(config | {"scale": [1.0] * 4, "shift": [0.0] * 4}))
    weights = {
        key.removeprefix("state."): tensor
        for key, tensor in recorded.items()
        if key.startswith("state.") and "wavelet_transform" not in key
    }
    vae.load_state_dict(weights)
    return vae


def off_by(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.std())


def whole(vae: Any, z: Tensor) -> Tensor:
    """Decode a whole video at once, ``(1, 3, frames, height, width)``."""
    stream: dict[Any, Tensor] = {}
    return torch.cat((vae.decoder(z, stream), vae.decoder.finish(stream)), dim=2)


def test_a_whole_video_is_decoded_as_by_the_published_code(
    published: WaveletVae, recorded: dict[str, Tensor]
) -> None:
    assert off_by(whole(published, recorded["z"]), recorded["decoded"]) <= RECORDED


def test_moments_are_those_of_the_published_code(
    published: WaveletVae, recorded: dict[str, Tensor]
) -> None:
    assert off_by(published.encoder(recorded["x"], {}), recorded["moments"]) <= RECORDED


class TestWaveletDecoder(VideoDecoderContract):
    held_back = 1  # half of it: two video frames

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def spec(self) -> BackboneSpec:
        return tiny_open_sora_plan_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return OpenSoraPlanFamily().load_decoder(self.folder, CPU, dtype)

    def oracle(self, latents: Tensor) -> Tensor:
        vae = tiny_wavelet_vae().to(latents.dtype)
        scale, shift = (
            latents.new_tensor(numbers).view(1, -1, 1, 1, 1)
            for numbers in (vae.config.scale, vae.config.shift)
        )
        return whole(vae, latents / scale + shift)[0].transpose(0, 1).clamp(-1, 1)

    def test_two_frames_lag_and_no_more(self) -> None:
        decoder, latents = self.decoder(torch.float32), torch.randn(1, 4, 5, 2, 2)
        state = decoder.start()
        frames = [
            sum(map(len, decoder.decode(state, frame))) for frame in torch.split(latents, 1, dim=2)
        ]
        assert frames == [1, 2, 4, 4, 4]
        assert sum(map(len, decoder.finish(state))) == 2

    def test_an_image_is_one_frame(self) -> None:
        decoder, state = self.decoder(torch.float32), self.decoder(torch.float32).start()
        latents = torch.randn(1, 4, 1, 2, 2)
        assert [len(part) for part in decoder.decode(state, latents)] == [1]
        assert list(decoder.finish(state)) == []

    def test_the_state_does_not_grow(self) -> None:
        decoder, sizes = self.decoder(torch.float32), []
        state = decoder.start()
        for frame in torch.split(torch.randn(1, 4, 6, 2, 2), 1, dim=2):
            list(decoder.decode(state, frame))
            sizes.append(sum(kept.untyped_storage().nbytes() for kept in state.values()))
        assert sizes[2] == sizes[3] == sizes[4] == sizes[5]


def test_frames_are_encoded_to_means_a_few_at_a_time(folder: ModelFolder) -> None:
    """Equal to the mean of the whole video's moments, in float64; scaled and shifted."""
    vae = tiny_wavelet_vae().double()
    frames = torch.randint(0, 256, (13, 32, 48, 3), dtype=torch.uint8)
    pixels = 2 * frames.permute(3, 0, 1, 2)[None].double() / 255 - 1
    mean = vae.encoder(pixels, {})[:, :4]
    scale, shift = (
        mean.new_tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.scale, vae.config.shift)
    )
    found = WaveletEncoder(vae).encode(frames)
    assert (found - (mean - shift) * scale).abs().max() <= 1e-10
    fp32 = OpenSoraPlanFamily().encode_video(folder, frames, CPU)
    torch.testing.assert_close(fp32.double(), found, rtol=1e-4, atol=1e-5)


def test_frames_that_are_not_given_are_black() -> None:
    encoder = WaveletEncoder(tiny_wavelet_vae())
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    black = torch.cat([frames, torch.zeros(4, 16, 16, 3, dtype=torch.uint8)])
    assert torch.equal(encoder.encode(frames, blank=4), encoder.encode(black))


def test_latents_come_back_through_both() -> None:
    """The encoder's scale and shift undo the decoder's: what leaves it enters the other."""
    vae = tiny_wavelet_vae()
    plain = WaveletVae(replace(vae.config, scale=(1.0,) * 4, shift=(0.0,) * 4))
    plain.load_state_dict(vae.state_dict())
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    videos = []
    for model in (vae, plain):
        decoder = WaveletDecoder(model)
        state = decoder.start()
        shown = list(decoder.decode(state, WaveletEncoder(model).encode(frames)))
        videos.append(torch.cat([*shown, *decoder.finish(state)]))
    torch.testing.assert_close(videos[0], videos[1], rtol=0, atol=1e-4)


def test_a_file_may_hold_the_wavelets_taps(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    for file in (folder.path / "vae").iterdir():
        (tmp_path / "vae" / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    taps = {"decoder.inverse_wavelet_transform_l1.aa": torch.full((1, 1, 2, 2), 0.5)}
    save_file(load_file(weights) | taps, weights)
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    found, expected = (
        OpenSoraPlanFamily().encode_video(each, frames, CPU)
        for each in (ModelFolder(tmp_path, folder.index), folder)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "groupnorm"}, r"norm_type is 'groupnorm'.*mixes all frames"),
        ({"t_interpolation": "nearest"}, r"t_interpolation is 'nearest'.*'trilinear'"),
        ({"use_attention": False}, r"use_attention is False.*True"),
        ({"scale": [0.2, 0.3]}, r"scale has 2 numbers for 4 latent channels"),
    ],
    ids=str,
)
def test_other_vaes_are_refused(folder: ModelFolder, changes: dict[str, Any], message: str) -> None:
    config = json.loads((folder.path / "vae" / "config.json").read_text())
    WaveletVaeConfig.read(config)
    with pytest.raises(ModelError, match=message):
        WaveletVaeConfig.read(config | changes)
