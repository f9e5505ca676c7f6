"""Operations and weights, counted without loading anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.models import ModelFolder, family_of
from longtake.models.counting import count_work
from longtake.models.wan import WanFamily
from longtake.testing.tiny import tiny_wan_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny", experts=2)


def test_operations_are_those_of_the_model(folder: ModelFolder) -> None:
    family = family_of(folder)
    work = count_work(family, folder, family.spec(folder), 4, 6)
    dim, ffn, text = 24, 32, 8
    # Self-attention's q, k, v, out; cross-attention's q, out and its kernel; the feed-forward.
    assert work.layer == 2 * (4 * dim**2 + 2 * dim**2 + 2 * text * dim + 2 * dim * ffn)
    assert work.attention == 4 * dim
    assert work.embed == work.head == 2 * (4 * 2 * 2) * dim
    larger = count_work(family, folder, family.spec(folder), 8, 6)
    assert larger.decode == 2 * work.decode > 0
    assert (larger.layer, larger.embed) == (work.layer, work.embed)


def test_a_family_that_cannot_be_built_without_weights_is_estimated(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no meta device here")

    counted = count_work(WanFamily(), folder, WanFamily().spec(folder), 4, 6)
    monkeypatch.setattr(WanFamily, "load_backbone", refuse)
    work = count_work(WanFamily(), folder, WanFamily().spec(folder), 4, 6)
    assert work.decode == counted.decode, "what can be counted is"
    assert counted.layer < work.layer < 4 * counted.layer
    assert work.attention == counted.attention
