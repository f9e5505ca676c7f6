"""The choice of a transport: what cannot be is refused with what can."""

from __future__ import annotations

from typing import Any

import pytest

from longtake.comm.choice import check_transport
from longtake.errors import ConfigurationError


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


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "cpu"), ("auto", "cuda"), ("gloo", "cpu"), ("staged", "cpu"), ("staged", "cuda")],
)
def test_what_can_be_is_not(name: Any, device: str) -> None:
    check_transport(name, device)
