"""Spec of a model: what is known without its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal

from longtake.errors import ConfigurationError
from longtake.models.conditioning_kinds import ConditioningKind, Honoured, honoured

_COUNTS: Final = ("channels", "heads", "head_dim", "layers", "native_frames", "train_timesteps")
_MOST: Final = 100_000
"""More than any model has of anything that is counted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a VAE shrinks a video.

    Args:
        temporal: Video frames per latent frame.
        spatial: Pixels per latent position, along height and width.
        first: Video frames of the first latent frame: 1 where the VAE is causal, ``temporal``
            where it is not.
    """

    temporal: int
    spatial: int
    first: int = 1

    def video_frames(self, latent_frames: int) -> int:
        """Return the number of video frames that ``latent_frames`` decode to."""
        return self.first + (latent_frames - 1) * self.temporal

    def latent_frame_of(self, video_frame: int) -> int:
        """Return the latent frame that decodes to a video frame, both counted from 0."""
        return max(0, 1 + (video_frame - self.first) // self.temporal)

    def start_second(self, latent_frame: int, fps: int | Fraction) -> float:
        """Return when the first video frame of a latent frame is shown."""
        return float((self.video_frames(latent_frame) if latent_frame else 0) / fps)

    def latent_frames(self, video_frames: int, name: str = "num_frames") -> int:
        """Return the number of latent frames that give exactly ``video_frames``.

        Args:
            video_frames: Length of a video.
            name: What the user calls it.

        Raises:
            ValueError: No number of latent frames does; names the two nearest lengths.
        """
        below = self.at_most(video_frames)
        if below != video_frames:
            raise ValueError(
                f"{name} is {video_frames}, but this VAE makes {self.first} + {self.temporal} n "
                f"frames; the nearest are {below} and {below + self.temporal}."
            )
        return 1 + (video_frames - self.first) // self.temporal

    def at_most(self, video_frames: int) -> int:
        """Return the longest length up to ``video_frames`` that latent frames decode to."""
        more = (video_frames - self.first) // self.temporal
        return self.first + max(0, more) * self.temporal


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """What the rest of longtake needs to know of a diffusion transformer, without its weights.

    Args:
        name: Shown in plans and errors.
        channels: Latent channels ``C``.
        patch: Latent frames (always 1), height and width per token.
        heads: Attention heads ``N``.
        head_dim: Size of a head ``D``.
        layers: Transformer layers.
        native_frames: Latent frames of the clips that the model was trained on.
        compression: Of the model's VAE.
        experts: How many sets of weights share the work; each denoising step uses one.
        boundary: With two experts, the share of the training timesteps at and above which the
            first one works; ``None`` with one expert.
        train_timesteps: Timesteps of the training schedule.
        text_tokens: Text tokens that pass through the layers behind the video tokens; 0 where
            text is outside self-attention.
        guidance: How the model is guided: by a second branch with the negative prompt, or by a
            scale that is embedded like the timestep (a distilled model).
        start: How a video may begin with given frames. ``refused``: not at all, the family
            cannot encode them; ``replaced``: they take the place of what is denoised, at its
            noise level, or clean at timestep 0 where the timestep may differ per frame;
            ``given``: they stand in their place, clean and at timestep 0, while all others have
            one noise level, and the model cannot do without; ``marked``: they stand in their
            place, clean, and an input channel says so, at the noise level of all others, and the
            model cannot do without; ``channels``: the model has input channels for them, and
            cannot do without.
        native: Kinds of given frames that the model was trained with (see
            ``longtake.models.conditioning_kinds``); the others are held in their place. With
            ``channels``, frames of these kinds are told in the input channels, and a start always.
        needs_end: Whether the model makes what is between two pictures, and cannot do without the
            last one either.
        image_in_noise: Share of the first given frame in the starting noise of every frame.
        reads_picture: Whether the text encoder sees the picture that a video starts from with
            every prompt (``ModelFamily.encode_text_with_pictures``).
        timestep: Whether all frames of a window have one noise level, or each has its own. A
            model with a timestep per frame is told the true level of every frame that it sees.
        sparse: How tokens attend in some layers, if not to all others: in ``groups``
            (``Backbone.token_groups`` says in which, and how), or to keys that they have
            ``chosen`` among all (``Backbone.own_kernel``), which no ring can share.
        square: Tokens along the side of the squares into which pictures can be cut.
        frame_levels: Whether the architecture can take a timestep per frame, though the model has
            been trained with one for all (``model.timesteps_per: frame``).
        learned_frames: Latent frames that have learned positions: the model has none for later
            ones; ``None``: positions are computed.
        moves_keys: Whether kept keys can move along time (``Positions.rotate``).
    """

    name: str
    channels: int
    patch: tuple[int, int, int]
    heads: int
    head_dim: int
    layers: int
    native_frames: int
    compression: Compression
    experts: int = 1
    boundary: float | None = None
    train_timesteps: int = 1000
    text_tokens: int = 0
    guidance: Literal["branches", "embedded"] = "branches"
    start: Literal["refused", "replaced", "given", "marked", "channels"] = "refused"
    native: tuple[ConditioningKind, ...] = ()
    needs_end: bool = False
    image_in_noise: float = 0.0
    reads_picture: bool = False
    timestep: Literal["clip", "frame"] = "clip"
    sparse: Literal["groups", "chosen"] | None = None
    square: int = 1
    frame_levels: bool = False
    learned_frames: int | None = None
    moves_keys: bool = False

    def __post_init__(self) -> None:
        counts = {
            **{name: getattr(self, name) for name in _COUNTS},
            "patch height": self.patch[1],
            "patch width": self.patch[2],
            "temporal compression": self.compression.temporal,
            "spatial compression": self.compression.spatial,
            "first latent frame's video frames": self.compression.first,
        }
        for name, count in counts.items():
            if type(count) is not int or not 0 < count <= _MOST:
                raise ConfigurationError(
                    f"the {name.replace('_', ' ')} of {self.name} would be {str(count)[:40]}, by "
                    f"its configuration files, but it is a whole number from 1 to {_MOST:,}."
                )
        if self.patch[0] != 1:
            raise ConfigurationError(
                f"{self.name} puts {self.patch[0]} latent frames into one token; blocks are cut "
                f"between latent frames, so longtake needs 1."
            )
        if self.timestep == "frame" and self.experts > 1:
            raise ConfigurationError(
                f"{self.name} has a timestep per frame and {self.experts} experts chosen by it; "
                f"the frames of one window need the same one, so longtake needs 1."
            )

    def with_frame_levels(self) -> BackboneSpec:
        """Return this with a timestep per frame.

        Raises:
            ConfigurationError: The architecture takes one for all frames, or its experts need one.
        """
        if self.timestep == "frame":
            return self
        if not self.frame_levels or self.experts > 1:
            why = (
                f"its {self.experts} experts are chosen by it"
                if self.experts > 1
                else "its architecture has one for all frames"
            )
            raise ConfigurationError(
                f"model.timesteps_per is frame, but {self.name} cannot take a timestep per frame: "
                f"{why}; leave it out."
            )
        return replace(self, timestep="frame")

    @property
    def needs_start(self) -> bool:
        """Whether the model cannot do without given frames."""
        return self.start in ("given", "marked", "channels")

    @property
    def model_dim(self) -> int:
        """Size of a hidden state ``M``."""
        return self.heads * self.head_dim

    def honours(self, kind: ConditioningKind) -> Honoured:
        """Return how given frames of a kind are honoured."""
        return honoured(
            kind,
            encodes=self.start != "refused",
            native=self.native,
            always=self.needs_start,
            first_only=self.start == "given",
        )

    def expert(self, timestep: float) -> int:
        """Return which expert works at ``timestep``: 0 for the noisy part, 1 below the boundary."""
        if self.boundary is None:
            return 0
        return int(timestep < self.boundary * self.train_timesteps)

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Return the tokens of one latent frame of ``(height, width)`` latent positions."""
        return (height // self.patch[1]) * (width // self.patch[2])
