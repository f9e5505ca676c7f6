"""CogVideoX backbone: diffusers' modules, with attention handed in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias, cast, final

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor
from torch.nn.functional import conv2d
from typing_extensions import override

from longtake.models.base import Attend, Backbone, Condition, Grid, LayerContext, PromptStates
from longtake.models.cogvideox.positions import CogVideoXLearned, CogVideoXRotary, CogVideoXWaves
from longtake.models.layers.joint_attention import OneStreamAttention, split_text
from longtake.models.layers.patches import unpatchify_channels_first
from longtake.models.spec import BackboneSpec

CogVideoXCondition: TypeAlias = Condition[Tensor, Tensor]
"""The branches' text tokens ``(B, L, M)``; the timestep's embedding ``(1, M_time)``."""

_OFS: Final = 2.0
"""What the published pipeline always gives for the embedding of that name."""


@final
class CogVideoXBackbone(Backbone[Tensor, Tensor]):
    """A CogVideoX transformer, in which video and text share the weights of every layer.

    The model sees all text tokens of a prompt, those that pad it included.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self, spec: BackboneSpec, transformer: CogVideoXTransformer3DModel, layers: Collection[int]
    ) -> None:
        config, patch = transformer.config, spec.patch[1]
        plane = (config.sample_height // patch, config.sample_width // patch)
        scales = (config.spatial_interpolation_scale, config.temporal_interpolation_scale)
        device = next(transformer.parameters()).device
        trained = None if config.patch_size_t is not None else plane  # CogVideoX 1.5
        rotary = CogVideoXRotary(spec.head_dim, patch, trained, spec.text_tokens, device)
        rotates = config.use_rotary_positional_embeddings
        super().__init__(spec, rotary if rotates else None)
        self._added: CogVideoXWaves | CogVideoXLearned | None = None
        if not rotates:
            self._added = CogVideoXWaves(spec.model_dim, patch, scales)
        elif spec.learned_frames is not None and 0 in layers:
            table = transformer.patch_embed.pos_embedding[0, spec.text_tokens :]
            self._added = CogVideoXLearned(table, plane)
        self._transformer = transformer
        for index in layers:
            transformer.transformer_blocks[index].attn1.set_processor(OneStreamAttention())

    @override
    def condition_text(self, prompts: PromptStates) -> Tensor:
        return cast(Tensor, self._transformer.patch_embed.text_proj(prompts["states"]))

    @override
    def condition_step(self, timestep: float, guidance: float) -> Tensor:
        embedding = self._transformer.time_embedding
        weight = embedding.linear_1.weight
        wave = self._transformer.time_proj(torch.tensor([timestep], device=weight.device))
        step = embedding(wave.to(weight.dtype))
        if self._transformer.ofs_embedding is not None:  # CogVideoX 1.5 from an image
            wave = self._transformer.ofs_proj(torch.tensor([_OFS], device=weight.device))
            step = step + self._transformer.ofs_embedding(wave.to(weight.dtype))
        return cast(Tensor, step)

    @override
    def embed(self, latents: Tensor, grid: Grid, condition: CogVideoXCondition) -> Tensor:
        patches, text = self._transformer.patch_embed.proj, condition.text
        if self.spec.start == "channels":
            assert condition.start is not None  # a run without one is refused
            latents = torch.cat([latents, condition.start.channels_of(grid.frames)], dim=1)
        frames, size = latents[0].transpose(0, 1).to(patches.weight.dtype), self.spec.patch[1]
        # A kernel of patches, or a matrix: channels are outermost in a patch of either.
        kernel = patches.weight.view(len(patches.weight), -1, size, size)
        tokens = conv2d(frames, kernel, patches.bias, stride=size)
        video = tokens.flatten(2).transpose(1, 2).flatten(0, 1)[None]
        if self._added is not None:
            video = self._added.add(video, grid)
        return torch.cat((video.expand(len(text), -1, -1), text), dim=1)

    @override
    def layer(
        self, index: int, hidden: Tensor, context: LayerContext[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        video, text = split_text(hidden, context.text_tokens)
        layer, carried = self._transformer.transformer_blocks[index], (context.rotary, attend)
        return torch.cat(layer(video, text, context.step, carried), dim=1)

    @override
    def head(self, hidden: Tensor, grid: Grid, condition: CogVideoXCondition) -> Tensor:
        model = self._transformer
        hidden = model.norm_out(model.norm_final(hidden), temb=condition.step)
        return unpatchify_channels_first(model.proj_out(hidden), grid, self.spec)
