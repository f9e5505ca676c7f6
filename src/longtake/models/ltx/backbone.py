"""LTX-Video backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Attend, Backbone, Condition, Grid, LayerContext, PromptStates
from longtake.models.layers.kernel import without_padding
from longtake.models.layers.levels import in_pieces, pieces
from longtake.models.layers.patches import unpatchify
from longtake.models.ltx.attention import CrossAttention, KeyValue, SelfAttention, project
from longtake.models.ltx.positions import LTXPositions
from longtake.models.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class LTXText:
    """What is known of the branches' prompts.

    Args:
        layers: Keys and values of the cross-attention of every layer that is here.
        padding: How many of the last ones are padding, for each branch.
    """

    layers: dict[int, KeyValue]
    padding: tuple[int, ...]


LTXStep: TypeAlias = tuple[Tensor, Tensor]
"""Of one noise level, or of a window's ``P`` pieces: embeddings of the timesteps ``(P, 1, M)``;
scale, shift and gate of a layer's parts ``(P, 1, 6 M)``."""
LTXCondition: TypeAlias = Condition[LTXText, LTXStep]
LTXContext: TypeAlias = LayerContext[LTXText, LTXStep]


@final
class LTXBackbone(Backbone[LTXText, LTXStep]):
    """An LTX-Video transformer: a token per latent position, text by cross-attention.

    Args:
        spec: From the configuration.
        transformer: diffusers' ``LTXVideoTransformer3DModel``, with only its own layers.
        layers: The layers that are here.
        lead: Of the positions (``LTXPositions``).
    """

    def __init__(
        self, spec: BackboneSpec, transformer: Any, layers: Collection[int], lead: int = 0
    ) -> None:
        device = transformer.scale_shift_table.device
        super().__init__(spec, LTXPositions(transformer.rope, spec, device, lead))
        self._transformer = transformer
        self._layers = {index: transformer.transformer_blocks[index] for index in sorted(layers)}
        for layer in self._layers.values():
            layer.attn1.set_processor(SelfAttention())
            layer.attn2.set_processor(CrossAttention())

    @override
    def condition_text(self, prompts: PromptStates) -> LTXText:
        mask, text = prompts["mask"], self._transformer.caption_projection(prompts["states"])
        layers = {index: project(layer.attn2, text) for index, layer in self._layers.items()}
        return LTXText(layers, tuple((mask.shape[1] - mask.sum(dim=1)).tolist()))

    @override
    def condition_step(self, timestep: float, guidance: float) -> LTXStep:
        weight = self._transformer.scale_shift_table
        time = torch.tensor([timestep], device=weight.device)
        modulation, embedding = self._transformer.time_embed(time, hidden_dtype=weight.dtype)
        return embedding[:, None], modulation[:, None]

    @override
    def join_steps(self, steps: Sequence[LTXStep], tokens: Sequence[int]) -> LTXStep:
        parts = zip(*(steps[run] for run in pieces(tokens)), strict=True)
        embedding, modulation = map(torch.cat, map(list, parts))
        return embedding, modulation

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: LTXCondition) -> Tensor:
        project_in, tokens = self._transformer.proj_in, latents.flatten(2).transpose(1, 2)
        return cast(Tensor, project_in(tokens.to(project_in.weight.dtype)))

    @override
    def layer(self, index: int, hidden: Tensor, context: LTXContext, attend: Attend) -> Tensor:
        padding = context.text.padding
        kernel = without_padding([context.kernel for _ in padding], padding)
        (_, modulation), (branches, _, width) = context.step, hidden.shape
        states = self._layers[index](
            hidden.reshape(branches * len(modulation), -1, width),
            (context.text.layers[index], kernel),
            modulation.repeat(branches, 1, 1),
            (context.rotary, attend, branches),
        )
        return cast(Tensor, states).reshape(hidden.shape)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: LTXCondition) -> Tensor:
        model = self._transformer
        table = model.scale_shift_table[None] + condition.step[0]
        shift, scale = table.chunk(2, dim=1)
        states = in_pieces(hidden, len(table))
        states = model.proj_out(model.norm_out(states) * (1 + scale) + shift)
        return unpatchify(states.flatten(1, 2), grid, self.spec)
