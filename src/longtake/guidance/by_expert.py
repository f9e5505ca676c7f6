"""GuidanceByExpert: a guidance for each of a model's two experts (Wan 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.guidance.base import (
    Branch,
    Guidance,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)


@final
class GuidanceByExpert(Guidance):
    """Guide the noisy steps in one way, and the later ones in another.

    Every forward makes the branches of both.

    Args:
        settings: Of the run.
        noisy: Of the first expert; its scale is ``model.guidance_scale``.
        later: Of the second expert; its scale is ``model.guidance_scale_2``.

    Raises:
        ConfigurationError: The model has one expert.
    """

    def __init__(
        self,
        settings: GuidanceSettings,
        noisy: Callable[[GuidanceSettings], Guidance],
        later: Callable[[GuidanceSettings], Guidance],
    ) -> None:
        super().__init__(settings)
        if len(settings.scales) != 2:
            raise ConfigurationError(
                "model.guidance is GuidanceByExpert, which is for models of two experts, but this "
                "one has one; choose the guidance itself."
            )
        self._of = [
            make(replace(settings, scales=(scale, scale)))
            for make, scale in zip((noisy, later), settings.scales, strict=True)
        ]

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        return tuple(dict.fromkeys(branch for one in self._of for branch in one.branches))

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        guidance, mine = self._of[at.expert], f"{at.expert}/"
        own = {name.removeprefix(mine): x for name, x in state.items() if name.startswith(mine)}
        wanted = {branch: predictions[branch] for branch in guidance.branches}
        guided, kept = guidance.combine(wanted, at, own)
        return guided, {mine + name: x for name, x in kept.items()}

    @property
    @override
    def embedded(self) -> float:
        return self._of[0].embedded
