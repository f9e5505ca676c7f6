"""Open-Sora-Plan's folders with a causal VAE that diffusers has: decoded as a stream."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from longtake.models import (
    AnyDecoder,
    BackboneSpec,
    ModelFolder,
)
from longtake.models.open_sora_plan import OpenSoraPlanFamily
from longtake.testing.contracts import VideoDecoderContract
from longtake.testing.tiny.base import wan_pictures
from longtake.testing.tiny.open_sora_plan import (
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_spec,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"))


@pytest.mark.usefixtures("upsampling_keeps_float64")
class TestOpenSoraPlanDecoder(VideoDecoderContract):
    bit_equal = ((5,),)  # at once, every call is one of diffusers' own

    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def spec(self) -> BackboneSpec:
        return tiny_open_sora_plan_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return OpenSoraPlanFamily().load_decoder(self.folder, CPU, dtype)

    def oracle(self, latents: Tensor) -> Tensor:
        return wan_pictures(AutoencoderKLWan.from_pretrained(self.folder.path / "vae"), latents)
