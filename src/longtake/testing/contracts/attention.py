"""The contract suite of attention kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.models import AttentionKernel, Placement
from longtake.models.layers.kernel import without_padding
from longtake.strategies.exchange.log_sum_exp import merge

LENGTHS = [(16, 16), (37, 53), (53, 37), (1, 64), (64, 1), (130, 257)]
"""Numbers of queries and keys: even and odd, alone, and more than a tile of most kernels."""


class AttentionKernelContract(ABC):
    """What every attention kernel must do."""

    device: ClassVar[str] = "cpu"
    """Where operands are."""
    heads: ClassVar[int] = 3
    head_dim: ClassVar[int] = 32
    tolerances: ClassVar[Mapping[torch.dtype, float]] = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
    """Dtypes that the kernel takes, each with the largest difference from float64, relative to
    the largest value: bfloat16 rounds scores, weights and results to 0.4 % each. An approximate
    kernel says why it has more."""

    @abstractmethod
    def kernel(self) -> AttentionKernel:
        """Return a new kernel."""

    @pytest.mark.parametrize(("queries", "keys"), LENGTHS)
    def test_any_lengths_are_attended_as_in_float64(self, queries: int, keys: int) -> None:
        """Windows have any number of tokens, and see any number of others."""
        for dtype in self.tolerances:
            q, k, v = self._operands(queries, keys, dtype)
            self._assert_near(self.kernel()(q, k, v), _exact(q, k, v), dtype)

    def test_large_scores_do_not_overflow(self) -> None:
        """As in the float64 oracle, where one key has all the weight."""
        for dtype in self.tolerances:
            q, k, v = self._operands(9, 11, dtype)
            # A power of two: the operands are scaled without rounding.
            self._assert_near(self.kernel()(q * 64, k, v), _exact(q * 64, k, v), dtype, 4.0)

    def test_operands_are_views_and_stay_as_they_are(self) -> None:
        """Keys are cut off, heads taken out, heads and tokens exchanged: never copied for it."""
        for dtype in self.tolerances:
            q, k, v = self._operands(20, 30, dtype, wide=True)
            views = q[:, 3:15, 1:], k[:, :25, 1:], v[:, :25, 1:]
            strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in views]
            before = [x.clone() for x in strided]
            for given in (views, strided):
                self._assert_near(self.kernel()(*given), _exact(*given), dtype)
            assert all(map(torch.equal, strided, before)), "operands are changed"

    def test_padded_keys_are_not_seen(self) -> None:
        """Rows of the batch have text of different lengths: what is behind is cut off."""
        for dtype in self.tolerances:
            q, k, v = self._operands(17, 40, dtype)
            k[0, 31:], v[0, 31:] = 1e4, 1e4  # nothing that may be seen
            kernel = self.kernel()
            out = without_padding([kernel, kernel], [9, 0])(q, k, v)
            self._assert_near(out, _masked(q, k, v, [9, 0]), dtype)

    def test_heads_and_rows_do_not_mix(self) -> None:
        """Devices share heads, and guidance branches: alone they are attended as together."""
        dtype = next(iter(self.tolerances))
        q, k, v = self._operands(13, 21, dtype)
        whole = self.kernel()(q, k, v)
        alone = self.kernel()(q[1:, :, 2:], k[1:, :, 2:], v[1:, :, 2:])
        self._assert_near(alone, whole[1:, :, 2:].double(), dtype, 2.0)

    def test_it_attends_alike_every_time(self) -> None:
        """Bit by bit: a run that goes on makes the same video."""
        for dtype in self.tolerances:
            q, k, v = self._operands(29, 31, dtype)
            assert torch.equal(self.kernel()(q, k, v), self.kernel()(q, k, v))

    def test_parts_of_the_keys_merge_to_the_whole(self) -> None:
        """On a ring, where each device has some of the keys; also without a query."""
        kernel = self.kernel()
        if not kernel.merges:
            q, k, v = self._operands(2, 2, torch.float32)
            with pytest.raises(NotImplementedError):
                kernel.with_lse(q, k, v)
            return
        for dtype in self.tolerances:
            q, k, v = self._operands(15, 33, dtype)
            first = kernel.with_lse(q, k[:, :20], v[:, :20])
            out, lse = merge(*first, *kernel.with_lse(q, k[:, 20:], v[:, 20:]))
            assert lse.shape == (*q.shape[:3], 1)
            assert lse.dtype in (torch.float32, torch.float64)
            self._assert_near(out, _exact(q, k, v), dtype, 2.0)
            out, lse = kernel.with_lse(q[:, :0], k, v)
            assert (out.shape[1], lse.shape[1]) == (0, 0)

    def test_it_is_tried_before_a_run(self) -> None:
        """What runs is not refused."""
        for dtype in self.tolerances:
            self.kernel().check(Placement(torch.device(self.device), dtype))

    def _operands(
        self, queries: int, keys: int, dtype: torch.dtype, *, wide: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * queries + keys)
        heads = self.heads + wide
        q, k, v = (
            torch.randn(2, tokens, heads, self.head_dim, generator=generator)
            for tokens in (queries, keys, keys)
        )
        return q.to(self.device, dtype), k.to(self.device, dtype), v.to(self.device, dtype)

    def _assert_near(
        self, out: Tensor, exact: Tensor, dtype: torch.dtype, factor: float = 1.0
    ) -> None:
        assert out.shape == exact.shape
        difference = ((out.double() - exact).abs().max() / exact.abs().max()).item()
        most = factor * self.tolerances[dtype]
        assert difference <= most, f"{difference:.1e} from float64 in {dtype}, more than {most:.0e}"


def _exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _masked(q, k, v, [0] * len(q))


def _masked(q: Tensor, k: Tensor, v: Tensor, padding: list[int]) -> Tensor:
    """Attend in float64, the last keys of each row hidden."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("bsnd,btnd->bnst", q, k) / q.shape[-1] ** 0.5
    for row, count in enumerate(padding):
        scores[row, :, :, k.shape[1] - count :] = -torch.inf
    return torch.einsum("bnst,btnd->bsnd", scores.softmax(-1), v)
