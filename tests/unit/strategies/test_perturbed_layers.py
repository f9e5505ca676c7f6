"""Perturbed branches: the whole video of diffusers' guider and layer skipping hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import diffusers
import pytest
import torch
from diffusers.hooks._helpers import AttentionProcessorMetadata, AttentionProcessorRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from longtake.caches import NoCache
from longtake.guidance import (
    Guidance,
    GuidanceSettings,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
)
from longtake.schedulers import FullSequence
from longtake.strategies import Denoising
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import (
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_wan_transformer,
)

FRAMES: Final = 5
SCALE: Final = 3.0
LAYERS: Final = [1, 2]
CASE: Final = TinyCase(
    scheduler=FullSequence(),
    latent_frames=FRAMES,
    cache=NoCache(),
    scales=(SCALE,),
    sampler="FlowMatchEulerDiscreteScheduler",
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            partial(PerturbedAttentionGuidance, layers=LAYERS, weakened_stop=1.0),
            diffusers.PerturbedAttentionGuidance(
                SCALE, perturbed_guidance_layers=LAYERS, perturbed_guidance_stop=1.0
            ),
        ),
        (
            partial(SkipLayerGuidance, layers=LAYERS, weakened_stop=1.0),
            diffusers.SkipLayerGuidance(
                SCALE,
                skip_layer_config=diffusers.LayerSkipConfig(LAYERS),
                skip_layer_guidance_stop=1.0,
            ),
        ),
    ],
    ids=["attention", "layers"],
)
@torch.no_grad()
def test_a_video_is_that_of_diffusers_guider(
    ours: Callable[[GuidanceSettings], Guidance], theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    AttentionProcessorRegistry._register()
    # diffusers 0.42.1 looks Wan's attention up under the name that it had before.
    known = {
        **AttentionProcessorRegistry._registry,
        WanAttnProcessor: AttentionProcessorMetadata(lambda: None),
    }
    monkeypatch.setattr(AttentionProcessorRegistry, "_registry", known)
    case = replace(CASE, guidance=ours)
    made = serial_video(tiny_denoising(case))
    plain = serial_video(tiny_denoising(CASE))
    expected = by_diffusers(tiny_denoising(CASE), theirs)
    size = expected.abs().max()
    assert (made - expected).abs().max() <= 1e-5 * size
    assert (made - plain).abs().max() > 1e-2 * size, "the perturbed forward does not count"


def by_diffusers(work: Denoising, guider: Any) -> Tensor:
    """Return the video of a guider, its models prepared as diffusers' pipelines do."""
    transformer = tiny_wan_transformer()
    prompts = tiny_prompts(2, 1)["states"]
    latents, sampler = next(work.noise), work.sampler.start()
    guider._input_fields = {"states": ("conditional", "negative")}
    for step, timestep in enumerate(work.sampler.timesteps):
        guider.set_state(step, len(work.sampler.timesteps), torch.tensor(timestep))
        data = {"states": (prompts[:1], prompts[1:])}
        predictions = {}
        for batch in guider.prepare_inputs(data):
            guider.prepare_models(transformer)
            name = getattr(batch, guider._identifier_key)
            predictions[name] = transformer(
                latents, torch.tensor([timestep]), batch.states, return_dict=False
            )[0]
            guider.cleanup_models(transformer)
        latents = sampler.step(guider.forward(**predictions).pred, latents)
    return latents
