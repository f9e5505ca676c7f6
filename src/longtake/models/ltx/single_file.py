"""Single files of LTX-Video: the VAE in them, compared with that of the pipeline."""

from __future__ import annotations

from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.loading.folder import TRANSFORMER, ModelFolder
from longtake.models.loading.headers import read_headers

_THEIRS: Final = "vae.per_channel_statistics.std-of-means"
_OURS: Final = "latents_std"
_TOLERANCE: Final = 0.01
"""One may be rounded to bfloat16; versions differ by tenths."""


def check_latents(folder: ModelFolder) -> None:
    """Refuse a file of weights (``model.weights``) with a VAE of other latents than the pipeline's.

    The transformer would be run as it should, and its latents decoded by a VAE that takes them for
    others. Files without a VAE, and pipelines whose weights are not here yet, are let pass.

    Raises:
        ModelError: Names both.
    """
    file = folder.own_weights(TRANSFORMER)
    if file is None or not file.is_file() or not folder.holds("vae"):
        return
    ours = read_headers(folder, "vae").get(_OURS)
    try:
        with safe_open(file, framework="pt") as reader:
            theirs: Tensor | None = reader.get_tensor(_THEIRS) if _THEIRS in reader.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError):  # refused where it is read as a transformer
        return
    if ours is None or theirs is None:
        return
    with safe_open(ours.file, framework="pt") as reader:
        found = ours.read(reader).float()
    if found.shape != theirs.shape or not torch.allclose(found, theirs.float(), rtol=_TOLERANCE):
        raise ModelError(
            f"{file} holds a VAE whose latents are not those of the VAE in {folder.path}, which "
            f"would decode them: the two are of different versions of LTX-Video; give the "
            f"diffusers folder of the file's version as model.pipeline."
        )
