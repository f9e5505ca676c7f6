"""Attention kernel: diffusers' dispatch, so that every backend it knows can be chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from diffusers.models.attention_dispatch import (
    _HUB_KERNELS_REGISTRY,
    AttentionBackendName,
    _check_attention_backend_requirements,
    _maybe_download_kernel_for_backend,
    dispatch_attention_fn,
)
from torch import Tensor

from longtake.errors import ConfigurationError, nearest
from longtake.models.base import Attend, Kernel, Operand, Placement
from longtake.models.layers.attention_kernel import AttentionKernel
from longtake.models.trust import kernel_commit


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, backend: str = "native") -> Tensor:
    """Attend from ``q`` to ``k`` and ``v``, all ``(B, S, N, D)``, without a mask.

    Args:
        q: Queries.
        k: Keys; their count may differ from the queries'.
        v: Values.
        backend: One of diffusers' attention backends.
    """
    return dispatch_attention_fn(q, k, v, backend=backend)  # type: ignore[no-any-return]


AttentionChoice: TypeAlias = str | AttentionKernel
"""One of diffusers' attention backends, or a kernel of one's own."""
AttentionOption: TypeAlias = str | Callable[[], AttentionKernel]
"""As a run's options say it: one of diffusers' backends, or what makes a kernel of one's own."""


def chosen_kernel(option: AttentionOption) -> AttentionChoice:
    """Return the attention that options say.

    Raises:
        ConfigurationError: It is no kernel, or one whose options cannot be.
    """
    if isinstance(option, str):
        return option
    found = option()
    if not isinstance(found, AttentionKernel):
        raise ConfigurationError(
            f"model.attention makes a {type(found).__name__}, which is no kernel: give the name of "
            f"a backend, or the class_path of a subclass of longtake.models.AttentionKernel."
        )
    return found


def kernel_of(choice: AttentionChoice) -> Kernel:
    """Return the kernel that was chosen."""
    if isinstance(choice, AttentionKernel):
        return choice
    return partial(attention_kernel, backend=choice)


def check_kernel(choice: AttentionChoice, place: Placement) -> None:
    """Refuse a kernel that does not run here.

    Raises:
        ConfigurationError: Says why.
    """
    if isinstance(choice, AttentionKernel):
        choice.check(place)
    else:
        check_backend(choice, place)


def made(operand: Operand) -> Tensor:
    """Return an operand of attention, made now if it is not there yet."""
    return operand if isinstance(operand, Tensor) else operand()


def attend_with(kernel: Kernel) -> Attend:
    """Return self-attention that is a kernel and nothing else: no exchange, no feature cache."""

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        v, k, q = made(v), made(k), made(q)
        return kernel(q, k, v)

    return attend


def without_padding(kernels: Sequence[Kernel], padding: Sequence[int]) -> Kernel:
    """Return a kernel that is blind to the padded text at the end of the keys.

    Padded keys are cut off instead of masked: the result is the same, and the fast backends
    (flash, sage) take no mask.

    Args:
        kernels: A kernel for each number of ``padding``.
        padding: How many of the last keys are padding: per row, or one number for all rows.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = [k.shape[1] - count for count in padding]
        if len(seen) == 1:
            return kernels[0](q, k[:, : seen[0]], v[:, : seen[0]])
        rows = enumerate(zip(kernels, seen, strict=True))
        return torch.cat(
            [kernel(q[r : r + 1], k[r : r + 1, :n], v[r : r + 1, :n]) for r, (kernel, n) in rows]
        )

    return attend


def check_backend(backend: str, place: Placement) -> None:
    """Refuse an attention backend that is unknown or does not run here, by running it on a token.

    Raises:
        ConfigurationError: Names the nearest backend, or says why this one does not run, or that
            its code would come from the hub.
    """
    known = [name.value for name in AttentionBackendName]
    if backend not in known:
        public = sorted(name for name in known if not name.startswith("_"))
        raise ConfigurationError(
            f"model.attention is {backend!r}, which diffusers does not know; the nearest backend "
            f"is {nearest(backend, known)} (of {', '.join(public)}; a kernel of your own as "
            f"{{class_path: package.module.Class}})."
        )
    _check_hub(backend)
    token = torch.zeros(1, 16, 2, 64, device=place.device, dtype=place.dtype)
    try:
        # What diffusers does where a model's backend is set: the dispatch alone fetches no kernel.
        _check_attention_backend_requirements(AttentionBackendName(backend))
        _maybe_download_kernel_for_backend(AttentionBackendName(backend))
        attention_kernel(token, token, token, backend)
    except Exception as error:  # each backend has its own way to say that it is not installed
        raise ConfigurationError(
            f"model.attention is {backend}, which does not run on {place.device} in {place.dtype} "
            f"here ({error}); native always does."
        ) from error


def _check_hub(backend: str) -> None:
    """Refuse a backend whose code is on the hub, unless its commit has been allowed; and pin it."""
    found = _HUB_KERNELS_REGISTRY.get(AttentionBackendName(backend))
    if found is None:
        return
    commit = kernel_commit(os.environ)
    if commit is None:
        raise ConfigurationError(
            f"model.attention is {backend}, whose code would be downloaded from {found.repo_id} on "
            f"the hub and run; allow it with --allow_hub_kernels COMMIT (of that repository, 40 "
            f"hexadecimal digits), or choose a backend that is installed here."
        )
    found.revision, found.version = commit, None  # diffusers names a version, which can move
