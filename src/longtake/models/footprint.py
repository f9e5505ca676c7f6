"""Memory footprint of a model's parts, measured on the meta device: nothing is loaded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.base import Grid, Operand
from longtake.models.blank import BlankModel
from longtake.models.counting import NothingPadded, decoder_cost, tensor_sizes
from longtake.models.layers.kernel import made
from longtake.models.loading.folder import ModelFolder
from longtake.models.meta_inputs import forward_inputs
from longtake.models.peak import FusedAttention, PeakMemory
from longtake.task import FrameRange

_FP32: Final = 4
"""Bytes of a number of the VAE and of image encoders."""
_REMEMBERED: Final = 16
"""Models that are measured once."""
_WIDTHS: Final = 14
"""Hidden states' worth of numbers that an ordinary layer has at once, where it cannot be run."""
_CHANNELS: Final = 96
"""Of a VAE at full size where it cannot be run: Wan's, three such tensors at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of what a run holds besides the transformer's weights, keys and values.

    Args:
        text: Of all text encoders' weights, in the dtype of the run.
        text_embeddings: Of those, the tables of words, which are never quantized.
        start: Of what encodes given frames: the VAE's encoder and image encoders, in fp32.
        decoder: Of the VAE's decoder, in fp32.
        decoder_state: What it keeps between latent frames, of one tile.
        decoder_peak: The most that it has besides while it decodes one, of one tile.
        decoder_workspace: What a CPU's convolutions add to that.
        activation: The most that a layer has at once, its input included, per token and branch.
    """

    text: int
    text_embeddings: int
    start: int
    decoder: int
    decoder_state: int
    decoder_peak: int
    activation: float
    decoder_workspace: int = 0


def measure(blank: BlankModel, height: int, width: int) -> Footprint:
    """Return the footprint of a model's parts; of parts that cannot be run, an ordinary one's.

    Kernels' own workspaces are left out, so a run takes a little more.

    Args:
        blank: The model.
        height: Latent height ``H`` of what is decoded at once.
        width: Latent width ``W`` of it.
    """
    folder, spec, dtype = blank.folder, blank.spec, blank.dtype
    parts = {part: _sizes(folder, part) for part in folder.weighted}
    vae = parts.pop("vae", {})
    text = sum(sum(sizes.values()) for part, sizes in parts.items() if part.startswith("text"))
    words = sum(
        size
        for part, sizes in parts.items()
        if part.startswith("text")
        for name, size in sizes.items()
        if "embed" in name or "shared" in name
    )
    image = sum(sum(sizes.values()) for part, sizes in parts.items() if part.startswith("image"))
    encoder = _without(vae, ("decoder", "post_quant_conv"))
    pixels = height * width * spec.compression.spatial**2 * spec.compression.temporal
    full = _CHANNELS * _FP32 * pixels
    cost = decoder_cost(blank, height, width)
    state, peak = (full, full) if cost is None else (cost.state, cost.peak)
    return Footprint(
        text=text * dtype.itemsize,
        text_embeddings=words * dtype.itemsize,
        start=(image + encoder) * _FP32,
        decoder=_without(vae, ("encoder", "quant_conv")) * _FP32,
        decoder_state=state,
        decoder_peak=peak,
        decoder_workspace=0 if cost is None else cost.workspace,
        activation=_activation(blank),
    )


def _sizes(folder: ModelFolder, component: str) -> dict[str, int]:
    with suppress(ModelError):  # a plug-in's own class, not on this machine
        sizes = tensor_sizes(folder, component)
        # Llava is published with the layer that makes words, which encoding does not read.
        return {name: size for name, size in sizes.items() if not name.startswith("lm_head")}
    return {}


def _without(sizes: dict[str, int], parts: tuple[str, ...]) -> int:
    return sum(size for name, size in sizes.items() if not name.startswith(parts))


@lru_cache(maxsize=_REMEMBERED)
def _activation(blank: BlankModel) -> float:
    """Return a layer's peak per token; an ordinary one's where it cannot be run."""
    try:
        with torch.no_grad(), NothingPadded(), FusedAttention():
            return _layer(blank)
    except Exception:  # a plug-in's code may fail on the meta device in any way
        return float(_WIDTHS * blank.spec.model_dim * blank.dtype.itemsize)


def _layer(blank: BlankModel) -> float:
    """Return a layer's peak per token, at a size at which what is not per token is small."""
    spec = blank.spec
    grid = Grid.of(FrameRange(0, spec.native_frames), height=60, width=104)
    ends = {0, spec.layers - 1}  # of models with two kinds of layers, one of each
    backbone = blank.backbone
    latents, context = forward_inputs(blank, backbone, grid, _kernel)
    hidden = backbone.embed(latents, grid, context)
    peak = 0
    for index in ends:
        with PeakMemory() as memory:
            backbone.layer(index, hidden, context, _attend)
        peak = max(peak, memory.peak)
    return (hidden.nbytes + peak) / hidden.shape[1]


def _kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q)


def _attend(q: Operand, k: Operand, v: Operand) -> Tensor:
    """Stand in for self-attention: its operands and its result are there at the same time."""
    values, keys, queries = made(v), made(k), made(q)
    result = torch.empty_like(queries)
    del values, keys
    return result
