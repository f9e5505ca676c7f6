"""HunyuanVideo 1.5 backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from diffusers import HunyuanVideo15Transformer3DModel
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Attend, Backbone, Condition, Grid, LayerContext, PromptStates
from longtake.models.hunyuan_video.step import HunyuanVideoStep
from longtake.models.layers.joint_attention import TwoStreamAttention, count_padding, split_text
from longtake.models.layers.patches import unpatchify_channels_first
from longtake.models.layers.rotary import AxialRotary
from longtake.models.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class HunyuanVideo15Text:
    """What is known of the branches' prompts before the first step.

    Args:
        prompts: The text encoders' states, and which of them are text. The refiner, which looks at
            the timestep as well, makes text tokens of them in ``embed``.
        order: Where each text token comes from, ``(B, L, 1)``: an image if there is one, glyphs,
            then the prompt, then what is padded in both.
        padding: How many are padded, for each branch.
    """

    prompts: PromptStates
    order: Tensor
    padding: tuple[int, ...]


HunyuanVideo15Condition: TypeAlias = Condition[HunyuanVideo15Text, HunyuanVideoStep]
HunyuanVideo15Context: TypeAlias = LayerContext[HunyuanVideo15Text, HunyuanVideoStep]


@final
class HunyuanVideo15Backbone(Backbone[HunyuanVideo15Text, HunyuanVideoStep]):
    """A HunyuanVideo 1.5 transformer, from text or from an image: every layer has two streams.

    The tokens of an image stand before those of text. Where there is no image diffusers puts them
    behind the padded text, and nobody sees them: here there are none.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        transformer: HunyuanVideo15Transformer3DModel,
        layers: Collection[int],
    ) -> None:
        config, device = transformer.config, next(transformer.parameters()).device
        dims, theta = tuple(config.rope_axes_dim), config.rope_theta
        super().__init__(spec, AxialRotary(dims, spec.patch, device, theta, spec.text_tokens))
        self._transformer = transformer
        for index in layers:
            transformer.transformer_blocks[index].attn.set_processor(TwoStreamAttention())

    @override
    def condition_text(self, prompts: PromptStates) -> HunyuanVideo15Text:
        mask = torch.cat((prompts["glyphs_mask"], prompts["mask"]), dim=1)
        if "image" in prompts:
            mask = F.pad(mask, (prompts["image"].shape[1], 0), value=True)
        order = mask.int().argsort(dim=1, descending=True, stable=True)[..., None]
        return HunyuanVideo15Text(prompts, order, count_padding(mask))

    @override
    def condition_step(self, timestep: float, guidance: float) -> HunyuanVideoStep:
        embedder = self._transformer.time_embed
        # Rounded to the weights' dtype, as the pipeline does: 999 is 1000 in bf16.
        time = torch.tensor([timestep]).to(embedder.timestep_embedder.linear_1.weight)
        return HunyuanVideoStep(time, embedder(time))

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: HunyuanVideo15Condition) -> Tensor:
        model, text = self._transformer, condition.text.prompts
        # Behind the latents' channels stand those of an image and of its mask, if there is one.
        if self.spec.start == "channels" and condition.start is not None:
            latents = torch.cat((latents, condition.start.channels_of(grid.frames)), dim=1)
        no_image = (0,) * 7 + (model.config.in_channels - latents.shape[1],)
        video = model.x_embedder(F.pad(latents.to(model.x_embedder.proj.weight.dtype), no_image))
        kinds = model.cond_type_embed.weight
        refined = model.context_embedder(text["states"], condition.step.timestep, text["mask"])
        # A padded token sees nothing in the refiner: with some attention kernels it is NaN.
        refined = refined.masked_fill(~text["mask"][..., None], 0.0)
        glyphs = model.context_embedder_2(text["glyphs"])
        tokens = torch.cat((glyphs + kinds[1], refined + kinds[0]), dim=1)
        if "image" in text:
            tokens = torch.cat((model.image_embedder(text["image"]) + kinds[2], tokens), dim=1)
        tokens = tokens.take_along_dim(condition.text.order, dim=1)
        return torch.cat((video.expand(len(tokens), -1, -1), tokens), dim=1)

    @override
    def layer(
        self, index: int, hidden: Tensor, context: HunyuanVideo15Context, attend: Attend
    ) -> Tensor:
        video, text = split_text(hidden, context.text_tokens)
        block, carried = self._transformer.transformer_blocks[index], (context.rotary, attend)
        return torch.cat(block(video, text, context.step.embedding, None, carried), dim=1)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: HunyuanVideo15Condition) -> Tensor:
        model = self._transformer
        patches = model.proj_out(model.norm_out(hidden, condition.step.embedding))
        return unpatchify_channels_first(patches, grid, self.spec)

    @override
    def text_padding(self, text: HunyuanVideo15Text) -> tuple[int, ...]:
        return text.padding
