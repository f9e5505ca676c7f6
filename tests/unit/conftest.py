"""Fixtures of all unit tests."""

from __future__ import annotations

import os

import pytest
import torch

# The models are tiny: threads would only wait for one another. ``make test-kernels`` asks for more.
torch.set_num_threads(int(os.environ.get("LONGTAKE_TEST_THREADS", "1")))


@pytest.fixture
def upsampling_keeps_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a cast to float32 in Wan's VAE, which would hide what float64 is to show.

    It copies pixels, in any dtype; in float32 the cast does nothing.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

    monkeypatch.setattr(WanUpsample, "forward", torch.nn.Upsample.forward)


@pytest.fixture
def norms_keep_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a cast to float32 in diffusers' RMSNorm, which would hide what float64 is to show.

    In float32 it does nothing.
    """
    from diffusers.models.normalization import RMSNorm

    def forward(self: RMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)
        return hidden * scale if self.weight is None else hidden * scale * self.weight

    monkeypatch.setattr(RMSNorm, "forward", forward)
