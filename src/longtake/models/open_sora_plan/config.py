"""The configuration of Open-Sora-Plan's transformer, as its ``config.json`` gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, Self, final

from longtake.errors import ModelError
from longtake.models.layers.groups import TokenGroups

IMAGE_TO_VIDEO: Final = "OpenSoraInpaint_v1_3"
"""What the configuration of image-to-video weights calls their class."""
_MASK: Final = 4
"""Values of the mask per latent frame, where the configuration says nothing."""
_FIXED: Final = {
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "double_self_attention": False,
    "only_cross_attention": False,
    "upcast_attention": False,
}
"""Settings that version 1.3 has one value for."""
_SPARSE: Final = range(2, 30)
"""Layers that may be sparse, whatever the number of layers is."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSoraPlanConfig:
    """Sizes of an ``OpenSoraT2V_v1_3``, or of its image-to-video kin; names are the published ones.

    Args:
        num_layers: Layers.
        num_attention_heads: Heads ``N``.
        attention_head_dim: Size of a head ``D``, a multiple of 6.
        in_channels: Latent channels ``C``.
        out_channels: Of the prediction, as many.
        caption_channels: Width of the text encoder's states.
        sparse1d: Whether layers 2 to 29 are sparse.
        sparse_n: Groups of a sparse layer.
        patch_size: Latent height and width per token.
        patch_size_t: Latent frames per token.
        attention_bias: Whether queries, keys and values have a bias.
        norm_eps: Of the layer norms.
        interpolation_scale_t: What positions along frames are divided by.
        interpolation_scale_h: Along height.
        interpolation_scale_w: Along width.
        vae_scale_factor_t: Of image-to-video weights, how many values of the mask a latent frame
            has: one for each of its video frames; 0 for text to video.
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    caption_channels: int
    sparse1d: bool
    sparse_n: int
    patch_size: int = 2
    patch_size_t: int = 1
    attention_bias: bool = True
    norm_eps: float = 1e-6
    interpolation_scale_t: float = 1.0
    interpolation_scale_h: float = 1.0
    interpolation_scale_w: float = 1.0
    vae_scale_factor_t: int = 0

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Read a ``config.json``.

        Raises:
            ModelError: A setting is missing, or is one that version 1.3 does not have.
        """
        for key, value in _FIXED.items():
            if config.get(key, value) != value:
                raise ModelError(
                    f"the transformer's {key} is {config[key]!r}, but Open-Sora-Plan 1.3 has "
                    f"{value!r}, and longtake knows no other version."
                )
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in config]
        if missing:
            raise ModelError(
                f"the transformer's config.json lacks {', '.join(missing)}; Open-Sora-Plan 1.3's "
                f"own names all of them."
            )
        given = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        if config.get("_class_name") == IMAGE_TO_VIDEO:
            given.setdefault("vae_scale_factor_t", _MASK)
        found = cls(**given)
        if found.out_channels != found.in_channels:
            raise ModelError(
                f"the transformer predicts {found.out_channels} channels of latents that have "
                f"{found.in_channels}; Open-Sora-Plan 1.3 predicts as many as there are."
            )
        if found.attention_head_dim % 6:
            raise ModelError(
                f"the transformer's attention_head_dim is {found.attention_head_dim}, but rotary "
                f"positions need a multiple of 6: pairs for frames, height and width."
            )
        return found

    @property
    def model_dim(self) -> int:
        """Size of a hidden state ``M``."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def scales(self) -> tuple[float, float, float]:
        """What positions are divided by, along frames, height and width."""
        return self.interpolation_scale_t, self.interpolation_scale_h, self.interpolation_scale_w

    def token_groups(self, index: int) -> TokenGroups | None:
        """Return which tokens attend to one another in a layer; ``None``: all of them.

        With 4 groups, even layers ("single skip") take every fourth token, odd ones ("group
        skip") four tokens of every sixteen.
        """
        if not self.sparse1d or index not in _SPARSE:
            return None
        return TokenGroups(self.sparse_n, run=self.sparse_n if index % 2 else 1)
