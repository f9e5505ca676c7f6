"""Similar models: registered ones that are nearest to one that is not, for a refusal's end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from longtake.models.card import ModelCard

_GENERATIONS: Final = {
    "LTX2": "LTX-2 makes video and sound in two streams, and none of its weights fit LTX-Video",
    "HunyuanSkyreels": "SkyReels-V1 is HunyuanVideo with further input channels",
    "HunyuanVideoFramepack": "FramePack sees its past through tokens of several sizes",
}
"""What a pipeline of another generation is, by the start of its name."""
_SAME: Final = {"HunyuanSkyreels": "HunyuanVideo"}
"""Names that do not begin with their family's."""
_TASKS: Final = {
    "VACE": "VACE steers a video with another one",
    "Animate": "Animate moves a character as a video does",
    "ImageToVideo": "it begins with an image",
    "VideoToVideo": "it remakes a video",
    "ConditionMultiScale": "it takes images and videos anywhere in time",
    "Condition": "it takes images and videos anywhere in time",
    "Control": "it steers a video with another one",
    "Upsample": "it enlarges latents of another pipeline",
}
"""What a pipeline is for, by a part of its name."""
_HINTS: Final = {
    "LTXImageToVideo": "a folder of LTXImageToVideoPipeline has the weights of LTXPipeline too",
    "SkyReelsV2DiffusionForcing": (
        "its folders have the weights of SkyReelsV2DiffusionForcingPipeline too"
    ),
    "WanVideoToVideo": "a folder of WanVideoToVideoPipeline has the weights of WanPipeline too",
}
"""Pipelines that have no weights of their own."""
_FROM_IMAGE: Final = ("ImageToVideo", "Animate")
_STEM = re.compile(r"(DiffusionForcing|ImageToVideo|VideoToVideo)*Pipeline$")


def instead_of(pipeline: str, cards: Sequence[ModelCard]) -> str:
    """Return a sentence that names what to run instead of a pipeline that is not registered.

    Args:
        pipeline: Name of its class, such as ``WanVACEPipeline``.
        cards: Of what is registered.
    """
    name, kin = pipeline.removesuffix("Pipeline"), _kin(pipeline, cards)
    what = [sentence for start, sentence in _GENERATIONS.items() if name.startswith(start)]
    what += [sentence for part, sentence in _TASKS.items() if part in name][:1]
    what += [hint for start, hint in _HINTS.items() if name.startswith(start)]
    known = ", ".join(sorted({card.pipeline for card in cards}))
    if not kin:
        return _after(what, f"no registered family is near it; there are {known}.")
    advice = "; ".join(_line(group) for group in _by_pipeline(kin))
    if "ImageToVideo" in name and all(card.start == "none" for card in kin):
        able = [card for card in cards if card.start == "always"]
        able.sort(key=lambda card: -(card.native_frames or 0))  # of the longest clips
        advice += "".join(f"; from an image, {_line(one)}" for one in _by_pipeline(able)[:1])
    return _after(what, f"the nearest registered pipeline is {advice}.")


def _after(reasons: Sequence[str], advice: str) -> str:
    return f"{'; '.join(reasons)}. {advice[0].upper()}{advice[1:]}" if reasons else advice


def _kin(pipeline: str, cards: Sequence[ModelCard]) -> list[ModelCard]:
    """Return the cards of the family whose name is the longest in ``pipeline``, nearest first."""
    for start, family in _SAME.items():
        if pipeline.startswith(start):
            pipeline = family
    stems = {card.pipeline: _STEM.sub("", card.pipeline) for card in cards}
    fitting = [stem for stem in stems.values() if stem and stem in pipeline]
    if not fitting:
        return []
    best = max(fitting, key=len)
    kin = [card for card in cards if stems[card.pipeline] == best]
    from_image = any(part in pipeline for part in _FROM_IMAGE)

    def distance(card: ModelCard) -> tuple[bool, int]:
        bare = card.pipeline.removesuffix("Pipeline")
        return (card.start == "always") != from_image, -len(bare) * (bare in pipeline)

    return sorted(kin, key=distance)


def _by_pipeline(cards: Sequence[ModelCard]) -> list[list[ModelCard]]:
    names = dict.fromkeys(card.pipeline for card in cards)
    return [[card for card in cards if card.pipeline == name] for name in names]


def _line(cards: Sequence[ModelCard]) -> str:
    """Return a pipeline with what it makes and an example of a folder."""
    (first, *_), start = cards, cards[0].start
    made = {"optional": "text, image or video to video", "always": "image to video"}
    words = [] if start is None else [made.get(start, "text to video")]
    words += [f"such as {first.examples[0]}"] if first.examples else []
    return f"{first.pipeline} ({', '.join(words)})" if words else first.pipeline
