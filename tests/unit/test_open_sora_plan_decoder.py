"""Open-Sora-Plan's folders with a causal VAE that diffusers has: decoded as a stream."""

from __future__ import annotations

from typing import Any

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
from longtake.testing.tiny_open_sora_plan import (
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_spec,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"))


class TestOpenSoraPlanDecoder(VideoDecoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def spec(self) -> BackboneSpec:
        return tiny_open_sora_plan_spec()

    def decoder(self) -> AnyDecoder:
        return OpenSoraPlanFamily().load_decoder(self.folder, CPU)

    def oracle(self, latents: Tensor) -> Tensor:
        vae: Any = AutoencoderKLWan.from_pretrained(self.folder.path / "vae")
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        video: Tensor = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
        return video[0].transpose(0, 1)
