"""Packed keys and values: how far from what was packed, how large, and packed twice alike."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from longtake.caches import Chunk, FeatureStore, kept_bytes
from longtake.caches.packing import Packed

Format = Literal["fp8", "int8"]
FORMATS: list[Format] = ["fp8", "int8"]


def features(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return ``(2, 40, 3, 16)``, tokens and heads of very different size, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(-12, 9, (2, 40, 3, 1), generator=generator).float().exp2()
    x = torch.randn(2, 40, 3, 16, generator=generator) * size
    x[0, 0, 0] = 0.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_within_half_a_step_of_each_head(dtype: torch.dtype) -> None:
    x = features(0, dtype)
    packed = Packed.of(x, "int8")
    step = packed.exponents.float().exp2()
    assert packed.unpack().dtype == dtype
    assert (packed.unpack().double() - x.double()).abs().le(step / 2).all()
    largest = packed.numbers.abs().amax(-1)
    assert ((largest >= 64) | (x == 0).all(-1)).all()  # seven bits are used
    assert packed.numbers.min() >= -127


def test_fp8_is_within_a_sixteenth_of_each_number() -> None:
    x = features(1)
    packed = Packed.of(x, "fp8")
    smallest = packed.exponents.float().exp2() * 2.0**-9  # of float8_e4m3fn
    error = (packed.unpack() - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, smallest / 2)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", FORMATS)
def test_packing_what_was_unpacked_changes_nothing(kept: Format, dtype: torch.dtype) -> None:
    once = Packed.of(features(2).clamp(-1e4, 1e4).to(dtype), kept).unpack()
    assert torch.equal(Packed.of(once, kept).unpack(), once)


@pytest.mark.parametrize("kept", FORMATS)
def test_a_store_holds_as_many_bytes_as_are_planned(kept: Format) -> None:
    store, k, v = FeatureStore(kept), features(3), features(4)
    store.put(Chunk(0, 0), 5, k, v)
    assert store.held_bytes == 2 * k.numel() * kept_bytes(kept, 4, 16)
    got = store.get(Chunk(0, 0), 5)
    assert torch.equal(got[0], Packed.of(k, kept).unpack())
    store.drop(Chunk(0, 0), 5, rest=[slice(0, 4), slice(30, 40)])
    rest = store.get(Chunk(0, 0), 5)[1]
    assert torch.equal(rest, got[1][:, [*range(4), *range(30, 40)]])


def test_a_plain_store_keeps_the_tensors_themselves() -> None:
    store, k, v = FeatureStore(), features(5), features(6)
    store.put(Chunk(0, 0), 0, k, v)
    assert store.get(Chunk(0, 0), 0)[0] is k
    assert store.held_bytes == 2 * k.numel() * kept_bytes("model", 4, 16)
