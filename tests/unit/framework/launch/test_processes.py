"""Processes of other ranks: one that is left alone ends, whoever still listens."""

from __future__ import annotations

import io
import os
import sys

import pytest
from typing_extensions import override

from longtake.framework.launch import processes


class Deaf(io.StringIO):
    """A pipe whose reader is gone."""

    @override
    def write(self, text: str) -> int:
        raise BrokenPipeError

    @override
    def flush(self) -> None:
        raise BrokenPipeError


def test_a_process_ends_though_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the one that started it was killed: it would wait for the others for half an hour."""
    monkeypatch.setattr(os, "_exit", sys.exit)  # which can be caught
    monkeypatch.setattr(sys, "stdout", Deaf())
    monkeypatch.setattr(sys, "stderr", Deaf())
    with pytest.raises(SystemExit) as ended:
        processes._end("the process that started this one is gone.")
    assert ended.value.code == 1
