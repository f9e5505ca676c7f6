"""Rows of models, for ``longtake models``: what each takes, its defaults and its licence."""

from __future__ import annotations

from longtake.models import ModelCard, registered
from longtake.tables import Cell

_STARTS = {"none": "text", "optional": "text,image,video", "always": "image,video"}
"""What a video is made from."""


def cards() -> list[ModelCard]:
    """Return the cards of every registered family, plug-ins included, by pipeline class.

    A plug-in that says nothing about itself has a card that names its pipeline only.
    """
    found: list[ModelCard] = []
    for pipeline, family in sorted(registered().items()):
        own = [card for card in family.cards if card.pipeline == pipeline]
        found += own or [ModelCard(pipeline=pipeline)]
    return found


def row_of(card: ModelCard) -> dict[str, Cell]:
    """Return a card as columns; what is not known is ``None``.

    A ``flow_shift`` of ``None`` is the one in the folder's scheduler, a ``guidance_scale_2`` of
    ``None`` the same as ``guidance_scale``.
    """
    own = card.defaults
    return {
        "pipeline": card.pipeline,
        "made_from": None if card.start is None else _STARTS[card.start],
        **{str(kind): how for kind, how in card.honours.items()},
        "guidance": card.guidance,
        "timestep_per": card.timestep,
        "native_frames": card.native_frames,
        "decoder": card.decoder,
        "axes": ",".join(card.axes),
        "licence": card.licence,
        "height": own.height,
        "width": own.width,
        "num_frames": own.frames,
        "fps": own.fps,
        "steps": own.steps,
        "guidance_scale": own.guidance_scale,
        "guidance_scale_2": own.guidance_scale_2,
        "flow_shift": own.flow_shift,
        "examples": ",".join(card.examples) or None,
        "model": card.model,
    }
