"""The Wan transformer as a backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from typing_extensions import override

from longtake.models.base import (
    Attend,
    Backbone,
    Condition,
    Grid,
    LayerContext,
    PromptStates,
    Rotary,
)
from longtake.models.patches import unpatchify
from longtake.models.rotary import AxialRotary, rotate
from longtake.models.spec import BackboneSpec

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one cross-attention, each ``(B, L, N, D)``."""

WanText = list[dict[int, KeyValue]]
"""Those of every layer that is here, for each expert."""


@dataclass(frozen=True, slots=True)
class WanStep:
    """One noise level.

    Args:
        expert: Which expert works.
        embedding: Its time embedding ``(1, M)``.
        modulation: Scale, shift and gate of a layer's parts ``(1, 6, M)``.
    """

    expert: int
    embedding: Tensor
    modulation: Tensor


class _SelfAttention:
    """Processor of a layer's self-attention; the layer's state comes in with the call.

    diffusers hands a layer's ``rotary_emb`` through untouched, so it carries the rotary table and
    the ``attend`` of this very call: no state is kept between calls.
    """

    def __call__(
        self, attn: Any, x: Tensor, _text: None, _mask: None, carried: tuple[Rotary, Attend]
    ) -> Tensor:
        rotary, attend = carried
        heads = (attn.heads, -1)
        q = rotate(attn.norm_q(attn.to_q(x)).unflatten(2, heads), rotary)
        k = rotate(attn.norm_k(attn.to_k(x)).unflatten(2, heads), rotary)
        v = attn.to_v(x).unflatten(2, heads)
        return cast(Tensor, attn.to_out[0](attend(q, k, v).flatten(2)))


class _CrossAttention:
    """Processor of a layer's cross-attention on keys and values that were computed once."""

    def __call__(
        self, attn: Any, x: Tensor, carried: tuple[KeyValue, Attend], _mask: None, _rotary: None
    ) -> Tensor:
        (k, v), kernel = carried
        q = attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1))
        return cast(Tensor, attn.to_out[0](kernel(q, k, v).flatten(2)))


@final
class WanBackbone(Backbone[WanText, WanStep]):
    """A Wan transformer, or Wan 2.2's pair of experts switched by the timestep.

    Args:
        spec: From the configuration.
        experts: The transformers, noisy part first, each with only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self, spec: BackboneSpec, experts: Sequence[WanTransformer3DModel], layers: Collection[int]
    ) -> None:
        height = width = 2 * (spec.head_dim // 6)
        dims = (spec.head_dim - height - width, height, width)
        device = next(experts[0].parameters()).device
        super().__init__(spec, AxialRotary(dims, spec.patch, device))
        self._experts = experts
        self._layers = sorted(layers)
        for expert in experts:
            for index in self._layers:
                expert.blocks[index].attn1.set_processor(_SelfAttention())
                expert.blocks[index].attn2.set_processor(_CrossAttention())

    @override
    def condition_text(self, prompts: PromptStates) -> WanText:
        experts = []
        for expert in self._experts:
            text = expert.condition_embedder.text_embedder(prompts["states"])
            attns = {index: expert.blocks[index].attn2 for index in self._layers}
            experts.append(
                {
                    index: (
                        attn.norm_k(attn.to_k(text)).unflatten(2, (attn.heads, -1)),
                        attn.to_v(text).unflatten(2, (attn.heads, -1)),
                    )
                    for index, attn in attns.items()
                }
            )
        return experts

    @override
    def condition_step(self, timestep: float, guidance: float) -> WanStep:
        index = self.spec.expert(timestep)
        embedder = self._experts[index].condition_embedder
        weight = embedder.time_proj.weight
        wave = embedder.timesteps_proj(torch.tensor([timestep], device=weight.device))
        fp32 = embedder.time_embedder.linear_1.weight.dtype
        embedding = embedder.time_embedder(wave.to(fp32)).to(weight.dtype)
        modulation = embedder.time_proj(embedder.act_fn(embedding)).unflatten(1, (6, -1))
        return WanStep(index, embedding, modulation)

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: Condition[WanText, WanStep]) -> Tensor:
        patches = self._experts[condition.step.expert].patch_embedding
        hidden: Tensor = patches(latents.to(patches.weight.dtype))
        return hidden.flatten(2).transpose(1, 2).contiguous()

    @override
    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: LayerContext[WanText, WanStep],
        attend: Attend,
    ) -> Tensor:
        block, text = self._experts[context.step.expert].blocks[index], context.text
        states = block(
            hidden,
            (text[context.step.expert][index], context.kernel),
            context.step.modulation,
            (context.rotary, attend),
        )
        return cast(Tensor, states)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: Condition[WanText, WanStep]) -> Tensor:
        step = condition.step
        expert = self._experts[step.expert]
        shift, scale = (expert.scale_shift_table + step.embedding[:, None]).chunk(2, dim=1)
        hidden = (expert.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        return unpatchify(expert.proj_out(hidden), grid, self.spec)
