"""Memory footprint of a model's parts, measured on the meta device: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.base import Grid, Operand, Placement
from longtake.models.counting import NothingPadded, tensor_sizes
from longtake.models.layers.kernel import made
from longtake.models.loading.folder import ModelFolder
from longtake.models.meta_inputs import META, decode_until_frames, forward_inputs
from longtake.models.peak import FusedAttention, PeakMemory
from longtake.models.registry import ModelFamily
from longtake.models.spec import BackboneSpec
from longtake.task import FrameRange

_FP32: Final = 4
"""Bytes of a number of the VAE and of image encoders."""
_DECODED: Final = 4
"""Times that video frames come from a decoder before its state has its full size."""
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
        activation: The most that a layer has at once, its input included, per token and branch.
    """

    text: int
    text_embeddings: int
    start: int
    decoder: int
    decoder_state: int
    decoder_peak: int
    activation: float


def measure(
    family: ModelFamily,
    folder: ModelFolder,
    spec: BackboneSpec,
    dtype: torch.dtype,
    height: int,
    width: int,
) -> Footprint:
    """Return the footprint of a model's parts; of parts that cannot be run, an ordinary one's.

    Kernels' own workspaces are left out, so a run takes a little more.

    Args:
        family: Knows the folder.
        folder: The pipeline folder.
        spec: Of the backbone.
        dtype: Of the transformer and the text encoders.
        height: Latent height ``H`` of what is decoded at once.
        width: Latent width ``W`` of it.
    """
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
    state, peak = _measured_or(lambda: _decoder(family, folder, spec, height, width), (full, full))
    ordinary = float(_WIDTHS * spec.model_dim * dtype.itemsize)
    return Footprint(
        text=text * dtype.itemsize,
        text_embeddings=words * dtype.itemsize,
        start=(image + encoder) * _FP32,
        decoder=_without(vae, ("encoder", "quant_conv")) * _FP32,
        decoder_state=state,
        decoder_peak=peak,
        activation=_measured_or(lambda: _layer(family, folder, spec, dtype), ordinary),
    )


def _sizes(folder: ModelFolder, component: str) -> dict[str, int]:
    with suppress(ModelError):  # a plug-in's own class, not on this machine
        return tensor_sizes(folder, component)
    return {}


def _without(sizes: dict[str, int], parts: tuple[str, ...]) -> int:
    return sum(size for name, size in sizes.items() if not name.startswith(parts))


def _measured_or(run: Callable[[], Any], ordinary: Any) -> Any:
    try:
        with ExitStack() as modes:
            for mode in (torch.no_grad(), NothingPadded(), FusedAttention()):
                modes.enter_context(mode)
            return run()
    except Exception:  # a plug-in's code may fail on the meta device in any way
        return ordinary


def _layer(
    family: ModelFamily, folder: ModelFolder, spec: BackboneSpec, dtype: torch.dtype
) -> float:
    """Return a layer's peak per token, at a size at which what is not per token is small."""
    grid = Grid.of(FrameRange(0, spec.native_frames), height=60, width=104)
    ends = {0, spec.layers - 1}  # of models with two kinds of layers, one of each
    backbone = family.load_backbone(folder, spec, sorted(ends), Placement(META, dtype))
    latents, context = forward_inputs(family, folder, backbone, grid, _kernel, dtype)
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


def _decoder(
    family: ModelFamily, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
) -> tuple[int, int]:
    """Return the bytes of a decoder's state, and the most that it has besides."""
    decoder = family.load_decoder(folder, META)
    frame = torch.empty(1, spec.channels, 1, height, width, device=META)
    with PeakMemory() as memory:
        state = decoder.start()
        for _ in range(_DECODED):
            memory.begin()
            decode_until_frames(decoder, state, frame)
    return memory.live, memory.peak - memory.live
