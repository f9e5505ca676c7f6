"""HunyuanVideo backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Attend, Backbone, Condition, Grid, LayerContext, PromptStates
from longtake.models.hunyuan_video.step import HunyuanVideoStep
from longtake.models.layers.joint_attention import (
    OneStreamAttention,
    TwoStreamAttention,
    count_padding,
    split_text,
)
from longtake.models.layers.levels import CLEAN
from longtake.models.layers.patches import unpatchify_channels_first
from longtake.models.layers.rotary import AxialRotary
from longtake.models.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class HunyuanVideoText:
    """What is known of the branches' prompts before the first step.

    Args:
        states: Of the large text encoder, ``(B, L, M_text)``. The refiner, which looks at the
            timestep as well, makes text tokens of them in ``embed``.
        mask: Which of them are text, ``(B, L)``; the others come last.
        padding: How many of them are not, for each branch.
        embedding: Of the pooled prompt, ``(B, M)``.
    """

    states: Tensor
    mask: Tensor
    padding: tuple[int, ...]
    embedding: Tensor


HunyuanVideoCondition: TypeAlias = Condition[HunyuanVideoText, HunyuanVideoStep]
HunyuanVideoContext: TypeAlias = LayerContext[HunyuanVideoText, HunyuanVideoStep]


@final
class HunyuanVideoBackbone(Backbone[HunyuanVideoText, HunyuanVideoStep]):
    """A HunyuanVideo transformer, from text or from an image: dual, then single-stream layers.

    Both streams of a dual layer are parts of the same hidden states, so layers may be divided
    among ranks anywhere.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        transformer: HunyuanVideoTransformer3DModel,
        layers: Collection[int],
    ) -> None:
        config, device = transformer.config, next(transformer.parameters()).device
        dims, theta = tuple(config.rope_axes_dim), config.rope_theta
        super().__init__(spec, AxialRotary(dims, spec.patch, device, theta, spec.text_tokens))
        dual, single = transformer.transformer_blocks, transformer.single_transformer_blocks
        self._transformer, self._layers, self._dual = transformer, [*dual, *single], len(dual)
        for index in layers:
            processor = TwoStreamAttention() if index < self._dual else OneStreamAttention()
            self._layers[index].attn.set_processor(processor)

    @override
    def condition_text(self, prompts: PromptStates) -> HunyuanVideoText:
        states, mask = prompts["states"], prompts["mask"]
        embedding = self._transformer.time_text_embed.text_embedder(prompts["pooled"])
        return HunyuanVideoText(states, mask, count_padding(mask), embedding)

    @override
    def condition_step(self, timestep: float, guidance: float) -> HunyuanVideoStep:
        embedder = self._transformer.time_text_embed
        weight = embedder.timestep_embedder.linear_1.weight
        time = torch.tensor([timestep], device=weight.device)
        embedding = embedder.timestep_embedder(embedder.time_proj(time).to(weight.dtype))
        given = self.spec.start == "given" and timestep == CLEAN  # those frames are told no scale
        if embedder.guidance_embedder is not None and not given:
            # Rounded to the weights' dtype, as the model was distilled: 6000 is 6016 in bf16.
            scale = torch.tensor([guidance], device=weight.device, dtype=weight.dtype) * 1000.0
            wave = embedder.time_proj(scale).to(weight.dtype)
            embedding = embedding + embedder.guidance_embedder(wave)
        return HunyuanVideoStep(time, embedding)

    @override
    def join_steps(
        self, steps: Sequence[HunyuanVideoStep], tokens: Sequence[int]
    ) -> HunyuanVideoStep:
        given, noisy = steps  # a video begins with its given frames
        return replace(noisy, given=(given.embedding, tokens[0]))

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: HunyuanVideoCondition) -> Tensor:
        model, text = self._transformer, condition.text
        if self.spec.start == "channels" and condition.start is not None:
            latents = torch.cat((latents, condition.start.channels_of(grid.frames)), dim=1)
        video = model.x_embedder(latents.to(model.x_embedder.proj.weight.dtype))
        tokens = model.context_embedder(text.states, condition.step.timestep, text.mask)
        return torch.cat((video.expand(len(tokens), -1, -1), tokens), dim=1)

    @override
    def layer(
        self, index: int, hidden: Tensor, context: HunyuanVideoContext, attend: Attend
    ) -> Tensor:
        # A single-stream layer joins both again, and would cut an empty text wrongly.
        count = context.text_tokens if index < self._dual else 1
        video, text = split_text(hidden, count)
        carried, step = (context.rotary, attend), context.step
        given, tokens = step.given or (step.embedding, 0)
        # Layers that know no given frames leave the last two unread.
        levels = given + context.text.embedding, tokens
        streams = self._layers[index](video, text, _embedding(context), None, carried, *levels)
        return torch.cat(streams, dim=1)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: HunyuanVideoCondition) -> Tensor:
        model = self._transformer
        patches = model.proj_out(model.norm_out(hidden, _embedding(condition)))
        return unpatchify_channels_first(patches, grid, self.spec)

    @override
    def text_padding(self, text: HunyuanVideoText) -> tuple[int, ...]:
        return text.padding


def _embedding(condition: HunyuanVideoCondition) -> Tensor:
    """Return what modulates every layer: time, guidance and prompt together, ``(B, M)``."""
    return condition.step.embedding + condition.text.embedding
