"""The HunyuanVideo transformer as a backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import torch
from diffusers import HunyuanVideoTransformer3DModel
from einops import rearrange
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


@dataclass(frozen=True, slots=True)
class HunyuanVideoStep:
    """One noise level.

    Args:
        timestep: ``(1,)``.
        embedding: Of the timestep and of the embedded guidance scale, ``(1, M)``.
    """

    timestep: Tensor
    embedding: Tensor


HunyuanVideoCondition = Condition[HunyuanVideoText, HunyuanVideoStep]


class _DualAttention:
    """Processor of a layer with weights of its own for text; the layer's state is in the call.

    diffusers hands a layer's rotary table through untouched, so it carries the table and the
    ``attend`` of this very call: no state is kept between calls.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None,
        image_rotary_emb: tuple[Rotary, Attend],
    ) -> tuple[Tensor, Tensor]:
        (rotary, attend), heads = image_rotary_emb, (attn.heads, -1)
        video, text = hidden_states, encoder_hidden_states
        q = attn.norm_q(attn.to_q(video).unflatten(2, heads))
        k = attn.norm_k(attn.to_k(video).unflatten(2, heads))
        v = attn.to_v(video).unflatten(2, heads)
        text_q = attn.norm_added_q(attn.add_q_proj(text).unflatten(2, heads))
        text_k = attn.norm_added_k(attn.add_k_proj(text).unflatten(2, heads))
        text_v = attn.add_v_proj(text).unflatten(2, heads)
        out = attend(
            rotate(torch.cat((q, text_q), dim=1), rotary),
            rotate(torch.cat((k, text_k), dim=1), rotary),
            torch.cat((v, text_v), dim=1),
        ).flatten(2)
        count = video.shape[1]
        return attn.to_out[0](out[:, :count]), attn.to_add_out(out[:, count:])


class _SingleAttention:
    """Processor of a layer whose weights video and text share; see ``_DualAttention``."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None,
        image_rotary_emb: tuple[Rotary, Attend],
    ) -> tuple[Tensor, Tensor]:
        (rotary, attend), heads = image_rotary_emb, (attn.heads, -1)
        x = torch.cat((hidden_states, encoder_hidden_states), dim=1)
        q = rotate(attn.norm_q(attn.to_q(x).unflatten(2, heads)), rotary)
        k = rotate(attn.norm_k(attn.to_k(x).unflatten(2, heads)), rotary)
        out = attend(q, k, attn.to_v(x).unflatten(2, heads)).flatten(2)
        return out[:, : hidden_states.shape[1]], out[:, hidden_states.shape[1] :]


@final
class HunyuanVideoBackbone(Backbone[HunyuanVideoText, HunyuanVideoStep]):
    """A HunyuanVideo transformer: dual-stream layers, then single-stream ones.

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
        rotary = AxialRotary(dims, spec.patch, device, theta, spec.text_tokens)
        super().__init__(spec, rotary)
        self._transformer = transformer
        dual, single = transformer.transformer_blocks, transformer.single_transformer_blocks
        self._layers, self._dual = [*dual, *single], len(dual)
        for index in layers:
            processor = _DualAttention() if index < self._dual else _SingleAttention()
            self._layers[index].attn.set_processor(processor)

    @override
    def condition_text(self, prompts: PromptStates) -> HunyuanVideoText:
        mask = prompts["mask"]
        padding = mask.shape[1] - mask.sum(dim=1)
        embedding = self._transformer.time_text_embed.text_embedder(prompts["pooled"])
        return HunyuanVideoText(prompts["states"], mask, tuple(padding.tolist()), embedding)

    @override
    def condition_step(self, timestep: float, guidance: float) -> HunyuanVideoStep:
        embedder = self._transformer.time_text_embed
        weight = embedder.timestep_embedder.linear_1.weight
        time = torch.tensor([timestep], device=weight.device)
        embedding = embedder.timestep_embedder(embedder.time_proj(time).to(weight.dtype))
        if embedder.guidance_embedder is not None:
            # Rounded to the weights' dtype, as the model was distilled: 6000 is 6016 in bf16.
            scale = torch.tensor([guidance], device=weight.device, dtype=weight.dtype) * 1000.0
            wave = embedder.time_proj(scale).to(weight.dtype)
            embedding = embedding + embedder.guidance_embedder(wave)
        return HunyuanVideoStep(time, embedding)

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: HunyuanVideoCondition) -> Tensor:
        model, text = self._transformer, condition.text
        video = model.x_embedder(latents.to(model.x_embedder.proj.weight.dtype))
        tokens = model.context_embedder(text.states, condition.step.timestep, text.mask)
        return torch.cat((video.expand(len(tokens), -1, -1), tokens), dim=1)

    @override
    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: LayerContext[HunyuanVideoText, HunyuanVideoStep],
        attend: Attend,
    ) -> Tensor:
        count = hidden.shape[1] - context.text_tokens
        if index >= self._dual:
            count = hidden.shape[1] - 1  # it joins both again, and would cut an empty one wrongly
        video, text = hidden[:, :count], hidden[:, count:]
        carried = (context.rotary, attend)
        streams = self._layers[index](video, text, _embedding(context), None, carried)
        return torch.cat(streams, dim=1)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: HunyuanVideoCondition) -> Tensor:
        model = self._transformer
        patches = model.proj_out(model.norm_out(hidden, _embedding(condition)))
        channels_last = rearrange(patches, "b s (c p) -> b s (p c)", c=self.spec.channels)
        return unpatchify(channels_last, grid, self.spec)

    @override
    def text_padding(self, text: HunyuanVideoText) -> tuple[int, ...]:
        return text.padding


def _embedding(condition: HunyuanVideoCondition) -> Tensor:
    """Return what modulates every layer: time, guidance and prompt together, ``(B, M)``."""
    return condition.step.embedding + condition.text.embedding
