"""The choice of a transport: what cannot be is refused with what can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from longtake.comm.choice import check_transport, make_transport
from longtake.errors import ConfigurationError, RankFailure


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("gloo", "cuda", "trainer.transport is gloo.*staged goes through gloo there"),
        ("nccl", "cpu", "trainer.transport is nccl.*auto takes gloo there"),
        ("mpi", "cpu", "trainer.transport is 'mpi'; it is one of auto, gloo, nccl, staged"),
    ],
)
def test_what_cannot_be_is_refused(name: Any, device: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_transport(name, device)


def test_nccl_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    with pytest.raises(ConfigurationError, match="does not have; auto takes staged here"):
        check_transport("nccl", "cuda")


def test_nccl_that_does_not_work_is_told_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("NCCL error: unhandled system error\nmore")

    monkeypatch.setattr("longtake.comm.choice.NcclTransport", broken)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    with pytest.raises(RankFailure, match=r"rank 3 .* unhandled system error\); .* staged goes"):
        make_transport("nccl", torch.device("cuda", 0), HashStore())


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "cpu"), ("auto", "cuda"), ("gloo", "cpu"), ("staged", "cpu"), ("staged", "cuda")],
)
def test_what_can_be_is_not(name: Any, device: str) -> None:
    check_transport(name, device)
