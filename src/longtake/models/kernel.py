"""The attention kernel: diffusers' dispatch, so that every backend it knows can be chosen."""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from longtake.errors import ConfigurationError, nearest
from longtake.models.base import Placement


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, backend: str = "native") -> Tensor:
    """Attend from ``q`` to ``k`` and ``v``, all ``(B, S, N, D)``, without a mask.

    Args:
        q: Queries.
        k: Keys; their count may differ from the queries'.
        v: Values.
        backend: One of diffusers' attention backends.
    """
    return dispatch_attention_fn(q, k, v, backend=backend)  # type: ignore[no-any-return]


def check_backend(backend: str, place: Placement) -> None:
    """Refuse an attention backend that is unknown or does not run here, by running it on a token.

    Raises:
        ConfigurationError: Names the nearest backend, or says why this one does not run.
    """
    known = [name.value for name in AttentionBackendName]
    if backend not in known:
        public = sorted(name for name in known if not name.startswith("_"))
        raise ConfigurationError(
            f"model.attention is {backend!r}, which diffusers does not know; the nearest backend "
            f"is {nearest(backend, known)} (of {', '.join(public)})."
        )
    token = torch.zeros(1, 16, 2, 64, device=place.device, dtype=place.dtype)
    try:
        attention_kernel(token, token, token, backend)
    except Exception as error:  # each backend has its own way to say that it is not installed
        raise ConfigurationError(
            f"model.attention is {backend}, which does not run on {place.device} in {place.dtype} "
            f"here ({error}); native always does."
        ) from error
