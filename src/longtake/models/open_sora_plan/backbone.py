"""Open-Sora-Plan backbone: sparse layers say which tokens they group."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import cast, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import (
    Attend,
    Backbone,
    Condition,
    Grid,
    LayerContext,
    PromptStates,
)
from longtake.models.layers.groups import TokenGroups
from longtake.models.layers.kernel import without_padding
from longtake.models.layers.patches import unpatchify
from longtake.models.open_sora_plan.attention import KeyValue
from longtake.models.open_sora_plan.transformer import OpenSoraPlanTransformer
from longtake.models.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class OpenSoraPlanText:
    """What is known of the branches' prompts before the first step.

    Args:
        layers: Cross-attention's keys and values of every layer that is here.
        padding: How many of each branch's last tokens are padding, which no query may see.
    """

    layers: dict[int, KeyValue]
    padding: tuple[int, ...]


OpenSoraPlanStep = tuple[Tensor, Tensor]
"""The timestep's embedding ``(1, M)``, and the modulation that layers share ``(1, 6, M)``."""


@final
class OpenSoraPlanBackbone(Backbone[OpenSoraPlanText, OpenSoraPlanStep]):
    """An Open-Sora-Plan transformer.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """

    def __init__(
        self, spec: BackboneSpec, transformer: OpenSoraPlanTransformer, layers: Collection[int]
    ) -> None:
        config, device = transformer.config, transformer.adaln_single.linear.weight.device
        super().__init__(spec, transformer.positions(config.scales, device))
        self._transformer, self._layers = transformer, sorted(layers)

    @override
    def condition_text(self, prompts: PromptStates) -> OpenSoraPlanText:
        model = self._transformer
        text = model.caption_projection(prompts["states"])
        layers = {index: model.layer(index).attn2.key_value(text) for index in self._layers}
        if "mask" not in prompts:  # as many tokens as there are
            return OpenSoraPlanText(layers, (0,))
        return OpenSoraPlanText(layers, tuple((~prompts["mask"]).sum(dim=1).tolist()))

    @override
    def condition_step(self, timestep: float, guidance: float) -> OpenSoraPlanStep:
        device = self._transformer.adaln_single.linear.weight.device
        return self._transformer.embed_step(torch.tensor([timestep], device=device))

    @override
    def embed(
        self, latents: Tensor, grid: Grid, condition: Condition[OpenSoraPlanText, OpenSoraPlanStep]
    ) -> Tensor:
        start = condition.start if self.spec.start == "channels" else None
        given = None if start is None else start.channels_of(grid.frames)
        return self._transformer.embed_video(latents, given)

    @override
    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: LayerContext[OpenSoraPlanText, OpenSoraPlanStep],
        attend: Attend,
    ) -> Tensor:
        (k, v), padding = context.text.layers[index], context.text.padding
        kernel = without_padding([context.kernel for _ in padding], padding)
        (_, modulation), layer = context.step, self._transformer.layer(index)
        states = layer(hidden, modulation, context.rotary, attend, partial(kernel, k=k, v=v))
        return cast(Tensor, states)

    @override
    def head(
        self, hidden: Tensor, grid: Grid, condition: Condition[OpenSoraPlanText, OpenSoraPlanStep]
    ) -> Tensor:
        embedding, _ = condition.step
        return unpatchify(self._transformer.predict(hidden, embedding), grid, self.spec)

    @override
    def token_groups(self, index: int) -> TokenGroups | None:
        return self._transformer.config.token_groups(index)
