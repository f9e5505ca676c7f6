"""Allegro backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.api import (
    Attend,
    AxialRotary,
    Backbone,
    BackboneSpec,
    Condition,
    Grid,
    LayerContext,
    PromptStates,
    Rotary,
    count_padding,
    rotate,
    unpatchify,
    without_padding,
)


@dataclass(frozen=True, slots=True)
class Text:
    """What cross-attention reads of some prompts.

    Args:
        keys_values: Keys and values ``(B, L, N, D)`` by layer.
        padding: Padded tokens at the end, per prompt.
    """

    keys_values: dict[int, tuple[Tensor, Tensor]]
    padding: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A noise level.

    Args:
        modulation: Scales, shifts and gates of a layer, ``(1, 6, M)``.
        embedding: Of the timestep, for the head, ``(1, 1, M)``.
    """

    modulation: Tensor
    embedding: Tensor


@final
class AllegroBackbone(Backbone[Text, Step]):
    """diffusers' ``AllegroTransformer3DModel``, with only its own layers.

    Args:
        spec: From the configuration.
        dit: The transformer.
        layers: The layers that are here.
    """

    def __init__(self, spec: BackboneSpec, dit: Any, layers: Collection[int]) -> None:
        sizes, config, third = spec.patch, dit.config, spec.head_dim // 3
        scales = tuple(getattr(config, f"interpolation_scale_{axis}") for axis in "thw")
        device = dit.proj_out.weight.device
        super().__init__(spec, AxialRotary((third,) * 3, sizes, device, scales=scales))
        self._dit, self._layers = dit, sorted(layers)

    @override
    def condition_text(self, prompts: PromptStates) -> Text:
        states = self._dit.caption_projection(prompts["states"])
        attns = {index: self._dit.transformer_blocks[index].attn2 for index in self._layers}
        keys_values = {
            index: (self._heads(attn.to_k(states)), self._heads(attn.to_v(states)))
            for index, attn in attns.items()
        }
        return Text(keys_values, count_padding(prompts["mask"]))

    @override
    def condition_step(self, timestep: float, guidance: float) -> Step:
        weight = self._dit.proj_out.weight
        told = torch.tensor([timestep], device=weight.device)
        modulation, embedding = self._dit.adaln_single(
            told, batch_size=1, hidden_dtype=weight.dtype
        )
        return Step(modulation.view(1, 6, -1), embedding[:, None])

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: Condition[Text, Step]) -> Tensor:
        frames = latents[0].transpose(0, 1).to(self._dit.proj_out.weight)
        tokens: Tensor = self._dit.pos_embed(frames).flatten(0, 1)[None]
        return tokens

    @override
    def layer(
        self, index: int, hidden: Tensor, context: LayerContext[Text, Step], attend: Attend
    ) -> Tensor:
        block, text, rotary = self._dit.transformer_blocks[index], context.text, context.rotary
        assert rotary is not None
        parts = (block.scale_shift_table + context.step.modulation).chunk(6, dim=1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts

        x, attn = block.norm1(hidden) * (1 + scale) + shift, block.attn1
        out = attend(
            lambda: self._turned(attn.to_q(x), rotary),
            lambda: self._turned(attn.to_k(x), rotary),
            lambda: self._heads(attn.to_v(x)),
        )
        hidden = hidden + gate * attn.to_out[0](out.flatten(2))

        kernel = without_padding([context.kernel for _ in text.padding], text.padding)
        queries = self._heads(block.attn2.to_q(hidden))
        out = kernel(queries, *text.keys_values[index])
        hidden = hidden + block.attn2.to_out[0](out.flatten(2))

        x = block.norm2(hidden) * (1 + scale_ff) + shift_ff
        done: Tensor = hidden + gate_ff * block.ff(x)
        return done

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: Condition[Text, Step]) -> Tensor:
        dit = self._dit
        shift, scale = (dit.scale_shift_table[None] + condition.step.embedding).chunk(2, dim=1)
        tokens = dit.proj_out(dit.norm_out(hidden) * (1 + scale) + shift)
        return unpatchify(tokens, grid, self.spec)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.spec.heads, -1)

    def _turned(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Apply rotary positions: diffusers pairs channel 0 of an axis with its middle one."""
        halves = x.view(*x.shape[:2], self.spec.heads, 3, 2, -1)
        return rotate(halves.transpose(4, 5).flatten(3), rotary)
