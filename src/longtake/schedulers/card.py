"""Method card: what a scheduler is for, for people who choose a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCard:
    """A published method in a table. What it costs is counted from its schedule, not said here.

    Args:
        method: Its name, or those of the methods that run alike.
        purpose: What it is for, in a sentence.
        settings: Options ``model.*`` that make it, each in YAML: at least ``scheduler``, ``cache``
            and ``noise``.
        steps: Denoising steps that its models take.
        models: Which models it is for.
        scales: What more devices do for it.
        paper: Where it is published; ``None``: ours, or a plug-in's.
        latent_frames: Length of the video that it is shown for.
    """

    method: str
    purpose: str
    settings: Mapping[str, str]
    steps: int
    models: str
    scales: str
    paper: str | None = None
    latent_frames: int = 255
