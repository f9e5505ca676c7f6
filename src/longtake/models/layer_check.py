"""Layer check: a plug-in's layers tried on the meta device, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.base import AnyBackbone, Grid, LayerContext, Operand
from longtake.models.blank import BlankModel
from longtake.models.counting import NothingPadded
from longtake.models.layers.kernel import attention_kernel, made
from longtake.models.layers.operands import check_hidden, checked, dtype_name
from longtake.models.meta_inputs import forward_inputs
from longtake.task import FrameRange

_GRID = (FrameRange(0, 2), 8, 8)
"""Frames, height and width of the window that is tried."""


def check_layers(blank: BlankModel) -> None:
    """Refuse a backbone whose layers give ``attend`` something else than it takes.

    A backbone that does not run on the meta device, in float32, cannot be tried: some build
    tensors where they like. Its operands are checked when it runs.

    Args:
        blank: The model.

    Raises:
        ModelError: Names the layer, and what is wrong with what it gives or returns.
    """
    frames, height, width = _GRID
    grid = Grid.of(frames, height=height, width=width)
    with torch.no_grad(), NothingPadded():
        for tried in dict.fromkeys((torch.float32, blank.dtype)):
            try:
                model = blank.with_dtype(tried)
                backbone = model.backbone
                latents, context = forward_inputs(model, backbone, grid, attention_kernel)
            except Exception:  # a plug-in's code may fail on the meta device in any way
                return
            try:
                _run(backbone, grid, latents.float(), context, tried)
            except ModelError:
                raise
            except Exception:
                return


def _run(
    backbone: AnyBackbone,
    grid: Grid,
    latents: Tensor,
    context: LayerContext[Any, Any],
    dtype: torch.dtype,
) -> None:
    name = backbone.spec.name
    with _naming(f"embed() of {name}", dtype):
        hidden = backbone.embed(latents, grid, context)
    for index in range(backbone.spec.layers):
        before, where = hidden, f"layer {index} of {name}"
        with _naming(where, dtype):
            hidden = _layer(backbone, index, before, context, where)
        check_hidden(where, hidden, before)
    tokens = len(grid.frames) * backbone.spec.tokens_per_frame(grid.height, grid.width)
    with _naming(f"head() of {name}", dtype):
        backbone.head(hidden[:, :tokens], grid, context)


def _layer(
    backbone: AnyBackbone,
    index: int,
    hidden: Tensor,
    context: LayerContext[Any, Any],
    where: str,
) -> Tensor:
    spec, calls = backbone.spec, list[int]()

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        calls.append(index)
        _, _, q = made(v), made(k), made(q)
        return q

    wanted = (*hidden.shape[:2], spec.heads, spec.head_dim)
    out = backbone.layer(index, hidden, context, checked(attend, where, wanted))
    if len(calls) != 1:
        raise ModelError(
            f"{where} calls attend {len(calls)} times; each layer calls it once, with all tokens."
        )
    return out


@contextmanager
def _naming(where: str, dtype: torch.dtype) -> Iterator[None]:
    """Name a part of a backbone that fails for its dtype."""
    try:
        yield
    except RuntimeError as error:
        if dtype == torch.float32:
            raise
        raise ModelError(
            f"{where} fails in {dtype_name(dtype)} (model.dtype), and not in float32, so a cast is "
            f"missing: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said[:200]}"
