"""Wan backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
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
from longtake.models.layers.levels import InPieces, in_pieces, pieces
from longtake.models.layers.patches import unpatchify
from longtake.models.layers.rotary import AxialRotary, rotate
from longtake.models.spec import BackboneSpec
from longtake.models.wan.cross_attention import CrossAttention, KeyValue, keys_and_values

WanText = list[dict[int, list[KeyValue]]]
"""What each expert's cross-attentions read, by layer: the text and, in Wan 2.1 I2V, an image."""


@dataclass(frozen=True, slots=True)
class WanStep:
    """One noise level, or those of the ``P`` pieces of a window
    (``longtake.models.layers.levels``).

    Args:
        expert: Which expert works.
        embedding: Its time embedding ``(P, M)``.
        modulation: Scale, shift and gate of a layer's parts ``(P, 6, M)``.
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
        out = attend(
            lambda: rotate(attn.norm_q(attn.to_q(x)).unflatten(2, heads), rotary),
            lambda: rotate(attn.norm_k(attn.to_k(x)).unflatten(2, heads), rotary),
            lambda: attn.to_v(x).unflatten(2, heads),
        )
        return cast(Tensor, attn.to_out[0](out.flatten(2)))


@final
class WanBackbone(Backbone[WanText, WanStep]):
    """A Wan transformer, or Wan 2.2's pair of experts switched by the timestep.

    Args:
        spec: From the configuration.
        experts: The transformers, noisy part first, each with only its own layers.
        layers: The layers that are here.
        added: Added to the modulation of every noise level, ``(1, 6, M)``: what a model with Wan's
            layers embeds besides the timestep.
        added_at: The same for videos of other frame rates, by frames per second.
        layer_arguments: What such a model's layers take besides.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        experts: Sequence[WanTransformer3DModel],
        layers: Collection[int],
        added: Tensor | float = 0.0,
        layer_arguments: Mapping[str, Any] = MappingProxyType({}),
        added_at: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> None:
        height = width = 2 * (spec.head_dim // 6)
        dims = (spec.head_dim - height - width, height, width)
        device = next(experts[0].parameters()).device
        super().__init__(spec, AxialRotary(dims, spec.patch, device))
        self._experts = experts
        self._layers = sorted(layers)
        self._added, self._added_at, self._layer_arguments = added, added_at, layer_arguments
        for expert in experts:
            for index in self._layers:
                expert.blocks[index].attn1.set_processor(InPieces(_SelfAttention()))
                expert.blocks[index].attn2.set_processor(InPieces(CrossAttention()))

    @override
    def at_rate(self, fps: float) -> WanBackbone:
        rate = round(fps)  # 23.976 is 24 to the model
        if rate not in self._added_at:
            return self
        told = copy(self)
        told._added = self._added_at[rate]
        return told

    @override
    def condition_text(self, prompts: PromptStates) -> WanText:
        experts = []
        for expert in self._experts:
            embedder = expert.condition_embedder
            text, image = embedder.text_embedder(prompts["states"]), None
            if embedder.image_embedder is not None:  # Wan 2.1 I2V and FLF2V
                image = embedder.image_embedder(_apart(prompts["image"], embedder.image_embedder))
            attns = {index: expert.blocks[index].attn2 for index in self._layers}
            experts.append(
                {index: keys_and_values(attn, text, image) for index, attn in attns.items()}
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
        return WanStep(index, embedding, modulation + self._added)

    @override
    def join_steps(self, steps: Sequence[WanStep], tokens: Sequence[int]) -> WanStep:
        of_pieces = [steps[run] for run in pieces(tokens)]
        return WanStep(
            steps[0].expert,
            torch.cat([step.embedding for step in of_pieces]),
            torch.cat([step.modulation for step in of_pieces]),
        )

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: Condition[WanText, WanStep]) -> Tensor:
        patches = self._experts[condition.step.expert].patch_embedding
        if self.spec.start == "channels":
            assert condition.start is not None  # a run without one is refused
            latents = torch.cat([latents, condition.start.channels_of(grid.frames)], dim=1)
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
        step = context.step
        states: Tensor = self._experts[step.expert].blocks[index](
            in_pieces(hidden, len(step.modulation)),
            (context.text[step.expert][index], context.kernel),
            step.modulation,
            (context.rotary, attend),
            **self._layer_arguments,
        )
        return states.flatten(1, 2)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: Condition[WanText, WanStep]) -> Tensor:
        step = condition.step
        expert = self._experts[step.expert]
        shift, scale = (expert.scale_shift_table + step.embedding[:, None]).chunk(2, dim=1)
        states = in_pieces(hidden, len(step.embedding))
        states = (expert.norm_out(states.float()) * (1 + scale) + shift).type_as(hidden)
        return unpatchify(expert.proj_out(states.flatten(1, 2)), grid, self.spec)


def _apart(states: Tensor, embedder: Any) -> Tensor:
    """Return the states of images as their embedder takes them: one image to a row."""
    if embedder.pos_embed is None:
        return states
    return states.reshape(2 * len(states), -1, states.shape[2])  # it has positions of two
