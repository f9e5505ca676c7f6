"""Wavelet VAE of Open-Sora-Plan 1.3 (``WFVAEModel``): encoder and decoder as streams."""

from longtake.models.open_sora_plan.wavelet_vae.config import WaveletVaeConfig
from longtake.models.open_sora_plan.wavelet_vae.decoder import WaveletDecoder
from longtake.models.open_sora_plan.wavelet_vae.encoder import WaveletEncoder, build_wavelet_vae
from longtake.models.open_sora_plan.wavelet_vae.model import WaveletVae

__all__ = [
    "WaveletDecoder",
    "WaveletEncoder",
    "WaveletVae",
    "WaveletVaeConfig",
    "build_wavelet_vae",
]
