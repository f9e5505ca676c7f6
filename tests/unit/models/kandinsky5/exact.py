"""diffusers' Kandinsky 5 in fp32, and with its sparse attention where there is no compiler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.transformers import transformer_kandinsky
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def exact_kandinsky5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from diffusers what makes it differ from the model that it describes.

    It rounds rotated queries and keys to bfloat16, whatever the weights are. And flex attention,
    which its sparse layers need, heeds a mask of blocks only where it is compiled: here their
    mask is written out for every token.
    """
    exact = SimpleNamespace(**vars(torch) | {"bfloat16": torch.float32})
    monkeypatch.setattr(transformer_kandinsky, "torch", exact)
    dispatch = transformer_kandinsky.dispatch_attention_fn

    def masked(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
        if attn_mask is None:
            return dispatch(q, k, v, **options)  # type: ignore[no-any-return]
        mask = attn_mask.to_dense().bool().repeat_interleave(64, 2).repeat_interleave(64, 3)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    monkeypatch.setattr(transformer_kandinsky, "dispatch_attention_fn", masked)
