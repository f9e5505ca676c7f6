"""Kandinsky 5 backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from diffusers import Kandinsky5Transformer3DModel
from diffusers.models.transformers.transformer_kandinsky import get_freqs
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from longtake.models.base import (
    Attend,
    Backbone,
    Condition,
    Grid,
    Kernel,
    LayerContext,
    PromptStates,
)
from longtake.models.kandinsky5.attention import (
    CrossAttention,
    SelfAttention,
    TextAttention,
)
from longtake.models.kandinsky5.nabla import Nabla
from longtake.models.kandinsky5.positions import Kandinsky5Rotary, in_lines, text_rotary
from longtake.models.layers.kernel import without_padding
from longtake.models.layers.patches import unpatchify_channels_first
from longtake.models.spec import BackboneSpec
from longtake.task import Frames


@dataclass(frozen=True, slots=True)
class Kandinsky5Text:
    """The branches' prompts.

    Args:
        states: Tokens ``(B, L, M)``, for layers as they are at the task's step.
        padding: How many of the last are padding, which nothing sees, for each branch.
        pooled: CLIP's, which is added to the timestep's embedding, ``(B, M_time)``.
    """

    states: Tensor
    padding: tuple[int, ...]
    pooled: Tensor


@final
class Kandinsky5Backbone(Backbone[Kandinsky5Text, Tensor]):
    """A Kandinsky 5 transformer, whose text has layers of its own before those of the video.

    Args:
        spec: From the configuration.
        transformer: With only its own layers, and without its tables of positions.
        layers: The layers that are here.
    """

    def __init__(
        self, spec: BackboneSpec, transformer: Kandinsky5Transformer3DModel, layers: Collection[int]
    ) -> None:
        config = transformer.config
        device = next(transformer.parameters()).device
        super().__init__(spec, Kandinsky5Rotary(config.axes_dims, spec, device))
        self._nabla: Nabla | None = None
        if spec.sparse is not None:
            reach = (config.attention_wT, config.attention_wH, config.attention_wW)
            self._nabla = Nabla(share=config.attention_P, reach=reach)
        self._transformer = transformer
        self._frequencies = get_freqs(config.model_dim // 2)
        for layer in transformer.text_transformer_blocks:
            layer.self_attention.set_processor(TextAttention())
        for index in layers:
            layer = transformer.visual_transformer_blocks[index]
            layer.self_attention.set_processor(SelfAttention())
            layer.cross_attention.set_processor(CrossAttention())

    @override
    def condition_text(self, prompts: PromptStates) -> Kandinsky5Text:
        states: Tensor = self._transformer.text_embeddings(prompts["states"])
        padding: tuple[int, ...] = (0,) * len(states)
        if "mask" in prompts:  # else as many tokens as there are
            padding = tuple((~prompts["mask"]).sum(dim=1).tolist())
        pooled = self._transformer.pooled_text_embeddings(prompts["pooled"])
        return Kandinsky5Text(states, padding, pooled)

    @override
    def condition_step(self, timestep: float, guidance: float) -> Tensor:
        embedding = self._transformer.time_embeddings
        weight, angle = embedding.in_layer.weight, timestep * self._frequencies
        wave = torch.cat([angle.cos(), angle.sin()])[None].to(weight)
        return cast(Tensor, embedding.out_layer(embedding.activation(embedding.in_layer(wave))))

    @override
    def text_at(self, text: Kandinsky5Text, step: Tensor) -> Kandinsky5Text:
        """Run the text's own layers, which are told the timestep: each prompt by itself."""
        rows = []
        for row, padding in enumerate(text.padding):
            states = text.states[row : row + 1, : text.states.shape[1] - padding]
            rotary = text_rotary(states.shape[1], self.spec.head_dim, states.device)
            for layer in self._transformer.text_transformer_blocks:
                states = layer(states, step + text.pooled[row : row + 1], rotary)
            rows.append(pad(states, (0, 0, 0, padding)))
        return replace(text, states=torch.cat(rows))

    @override
    def embed(
        self, latents: Tensor, grid: Grid, condition: Condition[Kandinsky5Text, Tensor]
    ) -> Tensor:
        patches, (frames, height, width) = self._transformer.visual_embeddings, self.spec.patch
        if self._transformer.visual_cond:  # as many channels of nothing, and which frames are given
            marks = latents.new_zeros(latents[:, :1].shape)
            if self.spec.start == "marked" and condition.start is not None:
                for place, frame in enumerate(grid.frames):
                    marks[:, :, place] = float(condition.start.holds(frame))
            latents = torch.cat([latents, torch.zeros_like(latents), marks], dim=1)
        tokens = rearrange(
            latents.to(patches.in_layer.weight.dtype),
            "b c (f pf) (h y ph) (w x pw) -> b (f h w y x) (pf ph pw c)",
            y=self.spec.square,
            x=self.spec.square,
            pf=frames,
            ph=height,
            pw=width,
        )
        return cast(Tensor, patches.in_layer(tokens))

    @override
    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: LayerContext[Kandinsky5Text, Tensor],
        attend: Attend,
    ) -> Tensor:
        text = context.text
        kernel = without_padding([context.kernel for _ in text.padding], text.padding)
        layer: Any = self._transformer.visual_transformer_blocks[index]
        return cast(
            Tensor,
            layer(
                hidden,
                (text.states, kernel),
                context.step + text.pooled,
                (context.rotary, attend),
                None,
            ),
        )

    @override
    def head(
        self, hidden: Tensor, grid: Grid, condition: Condition[Kandinsky5Text, Tensor]
    ) -> Tensor:
        out = self._transformer.out_layer
        step = condition.step + condition.text.pooled
        shift, scale = out.modulation(step)[:, None].float().chunk(2, dim=-1)
        states = (out.norm(hidden.float()) * (scale + 1.0) + shift).type_as(hidden)
        rows, columns = self._squares(grid)
        patches = in_lines(out.out_layer(states), self.spec.square, rows, columns)
        return unpatchify_channels_first(patches, grid, self.spec)

    @override
    def own_kernel(self, index: int, grid: Grid, keys: Frames) -> Kernel | None:
        if self._nabla is None:
            return None
        return self._nabla.kernel(grid.positions, keys, *self._squares(grid))

    def _squares(self, grid: Grid) -> tuple[int, int]:
        """Return how many squares of tokens a frame has, along height and width."""
        _, height, width = self.spec.patch
        side = self.spec.square
        return grid.height // height // side, grid.width // width // side
