"""Model card: what one kind of model folder takes and gives, for people who choose a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from longtake.models.conditioning_kinds import KINDS, ConditioningKind, Honoured, honoured
from longtake.models.defaults import Defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model in a table. What is left out is not known before a folder is there.

    Args:
        pipeline: diffusers' pipeline class, as ``model_index.json`` names it.
        model: Its name and its versions.
        examples: Hub ids of folders that can be run, or the function that makes one.
        start: What a video may begin with besides noise: nothing, frames of an image or a video, or
            always an image or a video.
        native: Kinds of given frames that it was trained with, as ``BackboneSpec.native``.
        first_only: Whether given frames can only be the first ones.
        chooses_keys: Whether queries choose among all keys, so that tokens go round no ring.
        guidance: Branches with the negative prompt, a scale that is embedded, or either, as the
            folder says.
        timestep: Whether all frames of a window have one noise level, or each its own.
        native_frames: Latent frames of the clips that it was trained on.
        decoder: ``exact``: blocks are decoded to the very frames of the whole video; ``window``:
            to those of a decoder that looks back no further than a native clip; ``overlap``: tiles
            fade into each other.
        licence: Of the weights, by the name that the hub has for it.
        defaults: What is taken where the user leaves a setting out; a folder may know better (see
            ``ModelFamily.defaults``).
    """

    pipeline: str
    model: str | None = None
    examples: tuple[str, ...] = ()
    start: Literal["none", "optional", "always"] | None = None
    native: tuple[ConditioningKind, ...] = ()
    first_only: bool = False
    chooses_keys: bool = False
    guidance: Literal["branches", "embedded", "either"] | None = None
    timestep: Literal["clip", "frame"] | None = None
    native_frames: int | None = None
    decoder: Literal["exact", "window", "overlap"] | None = None
    licence: str | None = None
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def axes(self) -> tuple[str, ...]:
        """Along what a run can be divided among devices."""
        guided = () if self.guidance == "embedded" else ("cfg",)
        return ("layers", *guided, "ulysses", *(() if self.chooses_keys else ("ring",)))

    @property
    def honours(self) -> dict[ConditioningKind, Honoured | None]:
        """How given frames are honoured, by kind; ``None``: not known."""
        if self.start is None:
            return dict.fromkeys(KINDS)
        return {
            kind: honoured(
                kind,
                encodes=self.start != "none",
                native=self.native,
                always=self.start == "always",
                first_only=self.first_only,
            )
            for kind in KINDS
        }
