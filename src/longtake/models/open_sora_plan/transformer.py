"""Open-Sora-Plan 1.3's transformer, under the published weight names."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast, final

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.normalization import AdaLayerNormSingle
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from longtake.models.base import Grid, Rotary
from longtake.models.layers.rotary import AxialRotary
from longtake.models.open_sora_plan.attention import (
    MASKED,
    Projections,
    masked_attention,
    rotate_halves,
    sparse_attention,
)
from longtake.models.open_sora_plan.config import OpenSoraPlanConfig
from longtake.task import FrameRange

SelfAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From queries, keys and values of the video ``(B, S, N, D)`` to the result."""
TextAttention = Callable[[Tensor], Tensor]
"""From queries of the video to what they find in the text."""


@final
class OpenSoraPlanLayer(nn.Module):
    """A layer: self-attention, cross-attention without a norm or a gate, feed-forward.

    Args:
        config: Of the transformer.
    """

    def __init__(self, config: OpenSoraPlanConfig) -> None:
        super().__init__()
        dim, heads = config.model_dim, config.num_attention_heads
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))
        self.norm1 = nn.LayerNorm(dim, config.norm_eps, elementwise_affine=False)
        self.attn1 = Projections(dim, heads, config.attention_bias)
        self.attn2 = Projections(dim, heads, config.attention_bias)
        self.norm2 = nn.LayerNorm(dim, config.norm_eps, elementwise_affine=False)
        self.ff = FeedForward(dim, activation_fn="gelu-approximate")

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        rotary: Rotary,
        attend: SelfAttention,
        attend_text: TextAttention,
    ) -> Tensor:
        """Run the layer on hidden states ``(B, S, M)``.

        Args:
            hidden: Of the video tokens.
            modulation: What all layers share of it, ``(B, 6, M)`` or ``(1, 6, M)``.
            rotary: Positions of the tokens.
            attend: Self-attention.
            attend_text: Cross-attention on this layer's keys and values of the text.
        """
        shared = self.scale_shift_table + modulation
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = shared.chunk(6, dim=1)
        x = self.norm1(hidden) * (1 + scale_a) + shift_a
        q, (k, v) = self.attn1.query(x), self.attn1.key_value(x)
        found = attend(rotate_halves(q, rotary), rotate_halves(k, rotary), v)
        hidden = hidden + gate_a * self.attn1.output(found)
        hidden = hidden + self.attn2.output(attend_text(self.attn2.query(hidden)))
        x = self.norm2(hidden) * (1 + scale_f) + shift_f
        out: Tensor = hidden + gate_f * self.ff(x)
        return out


@final
class OpenSoraPlanTransformer(nn.Module):
    """The model from latents to prediction.

    ``forward`` is the published forward, masks included; longtake runs the parts.

    Args:
        config: Of the transformer.
    """

    def __init__(self, config: OpenSoraPlanConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.model_dim, config.patch_size
        self.pos_embed: Any = _patches(config, config.in_channels)
        if config.vae_scale_factor_t:
            self.pos_embed_masked_hidden_states: Any = _given_patches(config, config.in_channels)
            self.pos_embed_mask: Any = _given_patches(config, config.vae_scale_factor_t)
        self.caption_projection = PixArtAlphaTextProjection(config.caption_channels, dim)
        self.adaln_single: Any = AdaLayerNormSingle(dim)
        self.transformer_blocks = nn.ModuleList(
            [OpenSoraPlanLayer(config) for _ in range(config.num_layers)]
        )
        self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))
        self.norm_out = nn.LayerNorm(dim, config.norm_eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, patch**2 * config.out_channels)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the parts that make tokens: what only a rank with the first layer needs."""
        given = ("pos_embed_masked_hidden_states", "pos_embed_mask")
        return ("pos_embed", *(given if self.config.vae_scale_factor_t else ()))

    def layer(self, index: int) -> OpenSoraPlanLayer:
        """Return a layer."""
        return cast(OpenSoraPlanLayer, self.transformer_blocks[index])

    def positions(self, scales: tuple[float, float, float], device: torch.device) -> AxialRotary:
        """Return rotary positions divided by ``scales``."""
        third, patch = self.config.attention_head_dim // 3, self.config.patch_size
        return AxialRotary((third,) * 3, (1, patch, patch), device, scales=scales)

    def embed_step(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Embed timesteps ``(B,)``: to ``(B, M)`` and the layers' modulation ``(B, 6, M)``."""
        adaln = self.adaln_single
        embedding = adaln.emb.timestep_embedder(_wave(timesteps).to(adaln.linear.weight.dtype))
        return embedding, adaln.linear(adaln.silu(embedding)).unflatten(1, (6, -1))

    def embed_video(self, latents: Tensor, given: Tensor | None = None) -> Tensor:
        """Turn latents ``(B, C, F, H, W)`` into tokens ``(B, S, M)``, frame after frame.

        Args:
            latents: Of the video.
            given: Of image-to-video weights: latents of the known frames, the others black, and
                the mask, 1 where a frame is to be made: ``(B, C + 4, F, H, W)``.
        """
        tokens = _tokens(self.pos_embed["proj"], latents)
        if given is None:
            return tokens
        sizes = [self.config.in_channels, self.config.vae_scale_factor_t]
        known, mask = torch.split(given, sizes, dim=1)
        for (patches, project), values in (
            (self.pos_embed_masked_hidden_states, known),
            (self.pos_embed_mask, mask),
        ):
            tokens = tokens + project(_tokens(patches["proj"], values))
        return tokens

    def predict(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Turn hidden states into patches ``(B, S, p p C)``; ``embedding`` is ``embed_step``'s."""
        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
        patches: Tensor = self.proj_out(self.norm_out(hidden) * (1 + scale) + shift)
        return patches

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        encoder_attention_mask: Tensor,
    ) -> Tensor:
        """Run the published forward.

        Args:
            hidden_states: Latents ``(B, C, F, H, W)``; of image-to-video weights ``(B, 2 C + 4, F,
                H, W)``, behind them what is given (``embed_video``).
            timestep: ``(B,)``.
            encoder_hidden_states: Of the text encoder, ``(B, 1, L, M_text)``.
            attention_mask: ``(B, F, H, W)``; a token is a key if any of its latents is 1.
            encoder_attention_mask: ``(B, 1, L)``, 1 for text.

        Returns:
            ``(B, C, F, H, W)``.
        """
        frames, height, width = hidden_states.shape[2:]
        patch = self.config.patch_size
        kept = F.max_pool2d(attention_mask.float(), patch).flatten(1)
        video_bias, text_bias = (
            (1 - mask).to(hidden_states.dtype) * MASKED
            for mask in (kept, encoder_attention_mask[:, 0].float())
        )
        text = self.caption_projection(encoder_hidden_states[:, 0])
        embedding, modulation = self.embed_step(timestep)
        scales = _published_scales((frames, height // patch, width // patch), self.config.scales)
        grid = Grid.of(FrameRange(0, frames), height=height, width=width)
        rotary = self.positions(scales, hidden_states.device).table(grid)
        channels = self.config.in_channels
        given = hidden_states[:, channels:] if self.config.vae_scale_factor_t else None
        hidden = self.embed_video(hidden_states[:, :channels], given)
        for index in range(self.config.num_layers):
            layer = self.layer(index)
            groups = self.config.token_groups(index)
            attend = partial(masked_attention, bias=video_bias)
            if groups is not None:
                attend = partial(sparse_attention, bias=video_bias, groups=groups)
            k, v = layer.attn2.key_value(text)
            attend_text = partial(masked_attention, k=k, v=v, bias=text_bias)
            hidden = layer(hidden, modulation, rotary, attend, attend_text)
        return rearrange(
            self.predict(hidden, embedding),
            "b (f h w) (ph pw c) -> b c f (h ph) (w pw)",
            f=frames,
            h=height // patch,
            ph=patch,
            pw=patch,
        )


def _patches(config: OpenSoraPlanConfig, channels: int) -> nn.ModuleDict:
    """Return what makes tokens of frames."""
    patch = config.patch_size
    return nn.ModuleDict({"proj": nn.Conv2d(channels, config.model_dim, patch, stride=patch)})


def _given_patches(config: OpenSoraPlanConfig, channels: int) -> nn.ModuleList:
    """Return what makes of given frames, or of their mask, what is added to tokens."""
    dim = config.model_dim
    return nn.ModuleList([_patches(config, channels), nn.Linear(dim, dim, bias=False)])


def _tokens(project: nn.Conv2d, latents: Tensor) -> Tensor:
    """Turn frames ``(B, C, F, H, W)`` into tokens ``(B, S, M)``."""
    frames = rearrange(latents.to(project.weight.dtype), "b c f h w -> (b f) c h w")
    tokens: Tensor = rearrange(project(frames), "(b f) m h w -> b (f h w) m", b=len(latents))
    return tokens


def _wave(timesteps: Tensor) -> Tensor:
    """Return cosines, then sines of timesteps ``(B,)`` at 128 frequencies, ``(B, 256)`` fp32.

    Exponentials are rounded from fp64: those of fp32 differ from CPU to CPU in their last bit,
    which the timestep, up to 1,000, makes an error of 1e-5 in the prediction.
    """
    steps = torch.arange(128, device=timesteps.device, dtype=torch.float32)
    frequencies = (-math.log(10_000.0) * steps / 128).double().exp().float()
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def _published_scales(
    lengths: tuple[int, int, int], scales: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the scales that the published code uses for axes of so many tokens.

    It keeps one table for each length: of axes of the same length, all get the scale of the
    first. Runs behind the ``attend`` seam give each axis its own, or positions would depend on the
    window; at the released scales of 1 there is no difference.
    """
    time, height, width = (scales[lengths.index(length)] for length in lengths)
    return time, height, width
