"""Attention kernel contract: attention of one device, for kernels of one's own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.models.base import Placement


class AttentionKernel(ABC):
    """Softmax attention on one device, as every layer's self- and cross-attention calls it.

    No mask: keys that no query may see are cut off before. Operands may be views that are not
    contiguous, and are not changed. To be chosen in YAML by its ``class_path``; options are the
    arguments of its ``__init__``.

    A kernel sees some of the heads where devices share them (Ulysses), and some of the keys where
    these go round (ring): then partial results have to be merged, see ``with_lse``.
    """

    merges = False
    """Whether ``with_lse`` is there, which a ring needs."""

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` to ``k`` and ``v``, scaled by the square root of ``D``.

        Args:
            q: Queries ``(B, S, N, D)``.
            k: Keys ``(B, S', N, D)``, at least one, as many or as few as you like.
            v: Values ``(B, S', N, D)``.

        Returns:
            ``(B, S, N, D)``, in the dtype of ``q``.
        """

    def with_lse(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to some of the keys, and return how much weight they have in all.

        Args:
            q: Queries ``(B, S, N, D)``, possibly none.
            k: Keys ``(B, S', N, D)``, at least one.
            v: Their values.

        Returns:
            The result ``(B, S, N, D)``, and the log-sum-exp of the scaled scores ``(B, S, N, 1)``
            in fp32 or wider.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no log-sum-exp")

    def check(self, place: Placement) -> None:
        """Refuse a device or dtype that the kernel does not run on; by default it is tried.

        Args:
            place: A rank's device, and the dtype of the operands.

        Raises:
            ConfigurationError: Says why, before any weight is read.
        """
        name = type(self).__name__
        q = torch.zeros(1, 16, 2, 64, device=place.device, dtype=place.dtype)
        k = q[:, :9]
        try:
            out = self(q, k, k)
        except Exception as error:  # each kernel has its own way to say what it lacks
            raise ConfigurationError(
                f"model.attention is {name}, which does not run on {place.device} in "
                f"{place.dtype} here ({error}); native always does."
            ) from error
        if out.shape != q.shape or out.dtype != q.dtype:
            raise ConfigurationError(
                f"model.attention is {name}, which makes {tuple(out.shape)} in {out.dtype} of "
                f"queries {tuple(q.shape)} in {q.dtype}: a kernel keeps their shape and dtype."
            )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"
