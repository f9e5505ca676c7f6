"""Guidances: the contract, and diffusers' guiders as oracles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.guidance import (
    CONDITIONAL,
    UNCONDITIONAL,
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    EmbeddedGuidance,
    Guidance,
    GuidanceByExpert,
    GuidanceSettings,
    GuidedStep,
    NoGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
)
from longtake.testing.contracts import GuidanceContract

STEPS = 10
PROJECTED = partial(AdaptiveProjectedGuidance, momentum=-0.5, norm=3.0, eta=0.2)
PERTURBED = partial(PerturbedAttentionGuidance, layers=[3, 5], weakened_stop=0.8, rescale=0.3)


class TestClassifierFree(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return ClassifierFreeGuidance(settings, rescale=0.7, start=0.2, last_scale=1.5)


class TestAdaptiveProjected(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return PROJECTED(settings)


class TestPerturbedAttention(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return PERTURBED(settings)


class TestByExpert(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return GuidanceByExpert(settings, noisy=PROJECTED, later=PERTURBED)


class TestEmbedded(GuidanceContract):
    settings = GuidanceSettings(scales=(6.0, 6.0), layers=8, embeds=True)

    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return EmbeddedGuidance(settings)

    def test_the_model_is_told_the_scale(self) -> None:
        assert EmbeddedGuidance(self.settings).embedded == 6.0
        assert ClassifierFreeGuidance(self.settings).embedded == 1.0


class TestNone(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        return NoGuidance(settings)


ORACLES: dict[str, tuple[Callable[[GuidanceSettings], Guidance], Any]] = {
    "cfg": (ClassifierFreeGuidance, partial(diffusers.ClassifierFreeGuidance)),
    "cfg-rescale-interval": (
        partial(ClassifierFreeGuidance, rescale=0.7, start=0.25, stop=0.65),
        partial(diffusers.ClassifierFreeGuidance, guidance_rescale=0.7, start=0.25, stop=0.65),
    ),
    "apg": (
        partial(AdaptiveProjectedGuidance, norm=2.5, eta=0.3, rescale=0.2),
        partial(
            diffusers.AdaptiveProjectedGuidance,
            adaptive_projected_guidance_rescale=2.5,
            eta=0.3,
            guidance_rescale=0.2,
        ),
    ),
    "apg-momentum": (
        partial(AdaptiveProjectedGuidance, momentum=-0.6, stop=0.8),
        partial(
            diffusers.AdaptiveProjectedGuidance,
            adaptive_projected_guidance_momentum=-0.6,
            stop=0.8,
        ),
    ),
    "slg": (
        partial(SkipLayerGuidance, layers=[1, 2], weakened_stop=0.6, stop=0.9),
        partial(
            diffusers.SkipLayerGuidance,
            skip_layer_guidance_layers=[1, 2],
            skip_layer_guidance_stop=0.6,
            stop=0.9,
        ),
    ),
    "pag": (
        partial(PerturbedAttentionGuidance, layers=[1], scale=1.7, start=0.3, rescale=0.5),
        partial(
            diffusers.PerturbedAttentionGuidance,
            perturbed_guidance_layers=[1],
            perturbed_guidance_scale=1.7,
            start=0.3,
            guidance_rescale=0.5,
        ),
    ),
}


@pytest.mark.parametrize("scale", [1.0, 4.5])
@pytest.mark.parametrize("name", ORACLES)
def test_a_guidance_is_diffusers_guider(name: str, scale: float) -> None:
    ours, theirs = ORACLES[name]
    guidance = ours(GuidanceSettings(scales=(scale,), layers=4))
    guider = theirs(guidance_scale=scale)
    state: Any = {}
    for step in range(STEPS):
        conditional, negative, weakened = (_draw(10 * step + row) for row in range(3))
        rows = {
            branch: negative
            if branch == UNCONDITIONAL
            else (conditional if branch == CONDITIONAL else weakened)
            for branch in guidance.branches
        }
        guided, state = guidance.combine(rows, GuidedStep(step=step, steps=STEPS), state)
        guider.set_state(step, STEPS, torch.tensor(0))
        if name.startswith("apg"):  # it makes its momentum where it prepares inputs
            guider.prepare_inputs({"x": (conditional, negative)})
        given = {"pred_cond_skip": weakened} if name in ("slg", "pag") else {}
        expected = guider.forward(conditional, negative, **given).pred
        difference = (guided - expected).abs().max() / expected.abs().max()
        assert difference <= 1e-5, f"step {step}: {difference:.1e}"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(ClassifierFreeGuidance, rescale=1.5), "rescale is 1.5.*0 .off. to 1"),
        (partial(ClassifierFreeGuidance, start=0.7, stop=0.5), "from 0.7 to 0.5 of the steps"),
        (partial(AdaptiveProjectedGuidance, norm=-1.0), "norm is -1; the least is 0"),
        (partial(SkipLayerGuidance, layers=[8]), "layer 8.*layers 0 to 3; the nearest is 3"),
        (partial(PerturbedAttentionGuidance, layers=[]), "layers is empty: .* from 0 to 3"),
        (EmbeddedGuidance, "not told a scale: choose ClassifierFreeGuidance"),
        (partial(GuidanceByExpert, noisy=NoGuidance, later=NoGuidance), "models of two experts"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    make: Callable[[GuidanceSettings], Guidance], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(GuidanceSettings(scales=(5.0,), layers=4))


def test_a_perturbed_forward_comes_beside_the_others() -> None:
    settings = GuidanceSettings(scales=(5.0,), layers=4)
    perturbed = SkipLayerGuidance(settings, layers=[2, 1, 2])
    assert [branch.skipped for branch in perturbed.branches] == [(), (), (1, 2)]
    alone = SkipLayerGuidance(GuidanceSettings(scales=(1.0,), layers=4), layers=[2])
    assert [branch.negative for branch in alone.branches] == [False, False]
    assert len(SkipLayerGuidance(settings, layers=[2], scale=0.0).branches) == 2


def _draw(seed: int) -> Tensor:
    return torch.randn(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
