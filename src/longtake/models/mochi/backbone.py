"""Mochi backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast, final

import torch
from diffusers import MochiTransformer3DModel
from torch import Tensor, nn
from typing_extensions import override

from longtake.models.base import Attend, Backbone, Condition, Grid, LayerContext, PromptStates
from longtake.models.layers.joint_attention import TwoStreamAttention, split_text
from longtake.models.layers.patches import unpatchify
from longtake.models.mochi.positions import MochiPositions
from longtake.models.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class MochiText:
    """What is known of the branches' prompts before the first step.

    Args:
        tokens: Text tokens ``(B, L, M)``: narrower than video tokens, so the rest is zeros.
        pooled: Of the whole prompt, ``(B, M)``.
        padding: How many of the last tokens are padding, for each branch.
    """

    tokens: Tensor
    pooled: Tensor
    padding: tuple[int, ...]


MochiCondition = Condition[MochiText, Tensor]
"""Of a step, the timestep's embedding ``(1, M)`` is known."""


@final
class MochiBackbone(Backbone[MochiText, Tensor]):
    """A Mochi transformer: two streams of different width in every layer.

    Text tokens are widened by zeros to travel behind the video tokens, so layers may be divided
    among ranks anywhere: 256 tokens behind 25,000 of a window are 1 % of what travels.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self, spec: BackboneSpec, transformer: MochiTransformer3DModel, layers: Collection[int]
    ) -> None:
        frequencies = transformer.pos_frequencies
        self._positions = MochiPositions(frequencies, spec.patch[1], spec.text_tokens)
        super().__init__(spec, self._positions)
        self._transformer = transformer
        for index in layers:
            transformer.transformer_blocks[index].attn1.processor = TwoStreamAttention()

    @override
    def condition_text(self, prompts: PromptStates) -> MochiText:
        embedder, states, mask = self._transformer.time_embed, prompts["states"], prompts["mask"]
        padding = mask.shape[1] - mask.sum(dim=1)
        tokens = self._widen(embedder.caption_proj(states))
        return MochiText(tokens, embedder.pooler(states, mask), tuple(padding.tolist()))

    @override
    def condition_step(self, timestep: float, guidance: float) -> Tensor:
        embedder = self._transformer.time_embed
        weight = embedder.timestep_embedder.linear_1.weight
        wave = embedder.time_proj(torch.tensor([timestep], device=weight.device))
        return cast(Tensor, embedder.timestep_embedder(wave.to(weight.dtype)))

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: MochiCondition) -> Tensor:
        patches, tokens = self._transformer.patch_embed, condition.text.tokens
        frames = latents[0].transpose(0, 1).to(patches.proj.weight.dtype)
        video = patches(frames).flatten(0, 1)
        return torch.cat((video.expand(len(tokens), -1, -1), tokens), dim=1)

    @override
    def layer(
        self, index: int, hidden: Tensor, context: LayerContext[MochiText, Tensor], attend: Attend
    ) -> Tensor:
        assert context.rotary is not None
        video, wide = split_text(hidden, context.text_tokens)
        text = wide[..., : self._transformer.config.pooled_projection_dim]
        carried = (self._positions.rotation(context.rotary), attend)
        layer = self._transformer.transformer_blocks[index]
        video, text = layer(video, text, context.step + context.text.pooled, None, carried)
        return torch.cat((video, self._widen(text)), dim=1)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: MochiCondition) -> Tensor:
        embedding = condition.step + condition.text.pooled
        hidden = self._transformer.norm_out(hidden, embedding)
        return unpatchify(self._transformer.proj_out(hidden), grid, self.spec)

    @override
    def text_padding(self, text: MochiText) -> tuple[int, ...]:
        return text.padding

    def _widen(self, text: Tensor) -> Tensor:
        return nn.functional.pad(text, (0, self.spec.model_dim - text.shape[2]))
