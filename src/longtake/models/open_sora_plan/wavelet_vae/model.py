"""The wavelet VAE of Open-Sora-Plan 1.3, under the published weight names, as a stream."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtake.models.open_sora_plan.wavelet_vae.config import WaveletVaeConfig
from longtake.models.open_sora_plan.wavelet_vae.layers import (
    CausalConv,
    DownInSpace,
    DownInSpaceAndTime,
    FrameAttention,
    FrameConv,
    Norm,
    ResBlock,
    UpInSpace,
    UpInSpaceAndTime,
    run,
)
from longtake.models.open_sora_plan.wavelet_vae.stream import Stream
from longtake.models.open_sora_plan.wavelet_vae.wavelets import (
    FromBands3D,
    ToBands3D,
    from_bands_2d,
    to_bands_2d,
)

_COLORS = 3
_BANDS_2D, _BANDS_3D = 4 * _COLORS, 8 * _COLORS


@final
class WaveletVae(nn.Module):
    """Encoder and decoder.

    Args:
        config: Of the VAE.
    """

    # The taps of the wavelets, which are no weights.
    _keys_to_ignore_on_load_unexpected = (r"wavelet_transform",)

    def __init__(self, config: WaveletVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WaveletEncoderModule(config)
        self.decoder = WaveletDecoderModule(config)


@final
class WaveletEncoderModule(nn.Module):
    """Video to mean and log-variance of latents; each level is told its pictures' wavelets.

    Args:
        config: Of the VAE.
    """

    def __init__(self, config: WaveletVaeConfig) -> None:
        super().__init__()
        c, flow = config.base_channels, config.encoder_energy_flow_hidden_size
        blocks = range(config.encoder_num_resblocks)
        self.to_bands, self.to_coarse_bands = ToBands3D(), ToBands3D()
        self.connect_l1 = FrameConv(_BANDS_2D, flow)
        self.connect_l2 = FrameConv(_BANDS_3D, flow)
        self.down1 = nn.ModuleList(
            [FrameConv(_BANDS_3D, c), *(ResBlock(c, c, FrameConv) for _ in blocks), DownInSpace(c)]
        )
        self.down2 = nn.ModuleList(
            [
                FrameConv(c + flow, 2 * c),
                *(ResBlock(2 * c, 2 * c) for _ in blocks),
                DownInSpaceAndTime(2 * c),
            ]
        )
        self.mid = nn.ModuleList(
            [ResBlock(2 * c + flow, 4 * c), FrameAttention(4 * c), ResBlock(4 * c, 4 * c)]
        )
        self.norm_out = Norm(4 * c)
        self.conv_out = CausalConv(4 * c, 2 * config.latent_dim)

    def forward(self, video: Tensor, stream: Stream) -> Tensor:
        """Encode a video's first frame, or its next ones, a multiple of 4.

        Args:
            video: ``(B, 3, F, height, width)`` in ``[-1, 1]``.
            stream: Of the video; changed.

        Returns:
            Mean and log-variance ``(B, 2 C, F', H, W)``.
        """
        bands = self.to_bands(video, stream)
        fine = to_bands_2d(bands[:, :_COLORS])
        coarse = self.to_coarse_bands(fine[:, :_COLORS], stream)
        h = run(self.down1, bands, stream)
        h = run(self.down2, torch.cat((h, self.connect_l1(fine, stream)), dim=1), stream)
        h = run(self.mid, torch.cat((h, self.connect_l2(coarse, stream)), dim=1), stream)
        moments: Tensor = self.conv_out(F.silu(self.norm_out(h)), stream)
        return moments


@final
class WaveletDecoderModule(nn.Module):
    """Latents to video; of each level some channels leave for the wavelets of its pictures.

    Args:
        config: Of the VAE.
    """

    def __init__(self, config: WaveletVaeConfig) -> None:
        super().__init__()
        c, flow = config.base_channels, config.decoder_energy_flow_hidden_size
        blocks, links = config.decoder_num_resblocks, range(config.connect_res_layer_num)
        self._flow = flow
        self.from_coarse_bands, self.from_bands = FromBands3D(), FromBands3D()
        self.conv_in = CausalConv(config.latent_dim, 4 * c)
        self.mid = nn.ModuleList(
            [ResBlock(4 * c, 4 * c), FrameAttention(4 * c), ResBlock(4 * c, 4 * c + flow)]
        )
        self.connect_l1, self.connect_l2 = (
            nn.ModuleList([*(ResBlock(flow, flow) for _ in links), FrameConv(flow, bands)])
            for bands in (_BANDS_2D, _BANDS_3D)
        )
        self.up2: Any = nn.ModuleList(
            [
                *(ResBlock(4 * c, 4 * c) for _ in range(blocks)),
                UpInSpaceAndTime(4 * c),
                ResBlock(4 * c, 4 * c + flow),
            ]
        )
        self.up1 = nn.ModuleList(
            [
                *(ResBlock((2 if block else 4) * c, 2 * c) for block in range(blocks)),
                UpInSpace(2 * c),
                ResBlock(2 * c, 2 * c),
            ]
        )
        self.layer = nn.ModuleList([ResBlock((1 if block else 2) * c, c) for block in range(2)])
        self.norm_out = Norm(c)
        self.conv_out = FrameConv(c, _BANDS_3D)

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        """Decode the next latent frames.

        Args:
            z: ``(B, C, F, H, W)``, scale and shift taken back.
            stream: Of the video; changed.

        Returns:
            ``(B, 3, frames, height, width)``: 1 video frame of the first latent one, 2 of the
            second, 4 of each later one; the last 2 are ``finish``'s.
        """
        h = run((self.conv_in, *self.mid), z, stream)
        own, links = h[:, : -self._flow], h[:, -self._flow :]
        coarse = self.from_coarse_bands(run(self.connect_l2, links, stream), stream)
        return self._video(run(self.up2, own, stream), coarse, stream)

    def finish(self, stream: Stream) -> Tensor | None:
        """Decode what has waited for a further latent frame: 2 video frames.

        Args:
            stream: Of the video; not to be used again.

        Returns:
            ``None`` where the video has one frame.
        """
        *_, upsampler, last = self.up2
        waited = upsampler.finish(stream)
        if waited.shape[2] == 0:
            return None
        h = last(waited, stream)
        return self._video(h, h.new_empty(len(h), _COLORS, 0, *h.shape[3:]), stream)

    def _video(self, h: Tensor, coarse: Tensor, stream: Stream) -> Tensor:
        """Decode from the finer levels on.

        Args:
            h: Of the second level, as far as its upsampling has come.
            coarse: Pictures of the same level, up to a frame more: it waits for its ``h``.
            stream: Of the video; changed.
        """
        coarse = torch.cat((stream.get(self, coarse[:, :, :0]), coarse), dim=2)
        here, stream[self] = torch.split(coarse, [h.shape[2], coarse.shape[2] - h.shape[2]], dim=2)
        own, links = h[:, : -self._flow], h[:, -self._flow :]
        pictures = from_bands_2d(_with_first(run(self.connect_l1, links, stream), here))
        h = run((*self.up1, *self.layer), own, stream)
        bands = self.conv_out(F.silu(self.norm_out(h)), stream)
        video: Tensor = self.from_bands(_with_first(bands, pictures), stream)
        return video


def _with_first(bands: Tensor, pictures: Tensor) -> Tensor:
    """Add pictures of three colors to the first of some bands."""
    return torch.cat((bands[:, :_COLORS] + pictures, bands[:, _COLORS:]), dim=1)
