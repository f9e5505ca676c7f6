"""The attention kernel: diffusers' dispatch, so that every backend it knows can be chosen."""

from __future__ import annotations

from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from longtake.errors import ConfigurationError, nearest


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, backend: str = "native") -> Tensor:
    """Attend from ``q`` to ``k`` and ``v``, all ``(B, S, N, D)``, without a mask.

    Args:
        q: Queries.
        k: Keys; their count may differ from the queries'.
        v: Values.
        backend: One of diffusers' attention backends.
    """
    return dispatch_attention_fn(q, k, v, backend=backend)  # type: ignore[no-any-return]


def check_backend(backend: str) -> None:
    """Refuse an attention backend that diffusers does not know.

    Raises:
        ConfigurationError: There is no such backend; names the nearest one.
    """
    known = [name.value for name in AttentionBackendName if not name.value.startswith("_")]
    if backend not in known:
        raise ConfigurationError(
            f"model.attention is {backend!r}, which diffusers does not know; the nearest backend "
            f"is {nearest(backend, known)} (of {', '.join(sorted(known))})."
        )
