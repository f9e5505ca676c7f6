"""Defaults of a model: what its pipeline and its authors run it with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The settings that a model was published with; what a user leaves out is taken from here.

    The numbers are those of the diffusers pipeline where it has one of its own, and of the authors'
    scripts where it has none, or one that only keeps an example small.

    Args:
        steps: Denoising steps.
        guidance_scale: Of classifier-free guidance, or the scale that is embedded.
        guidance_scale_2: Of a second expert; ``None``: the same.
        height: Pixels.
        width: Pixels.
        frames: Video frames of a clip.
        fps: Video frames per second.
        flow_shift: Shift of the noise levels; ``None``: the one in the folder's scheduler.
        prompt_template: What every prompt is put into, at ``{}``.
        negative_prompt: What guidance steers away from.
    """

    steps: int = 50
    guidance_scale: float = 5.0
    guidance_scale_2: float | None = None
    height: int = 480
    width: int = 832
    frames: int = 81
    fps: int = 16
    flow_shift: float | None = None
    prompt_template: str = "{}"
    negative_prompt: str = ""
