"""Hardware profiles: every number has a source, and a machine's own file is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from longtake.errors import ConfigurationError
from longtake.framework.engine import calibration
from longtake.plan.cost.calibrated import NUMBERS, OF_DTYPES, calibration_text
from longtake.plan.cost.profiles import FILE, profile


def test_every_number_has_its_source_or_is_an_estimate() -> None:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    known = {"estimate", *content["sources"]}
    for part in [content["shares"], *content["devices"].values()]:
        for name, (value, source) in part.items():
            assert isinstance(value, float), name
            assert source in known, name
    used = {source for part in content["devices"].values() for _, source in part.values()}
    assert used == known, "a source that nothing is from"


def test_links_between_nodes_and_memory_are_slower_than_what_they_join() -> None:
    for name in yaml.safe_load(FILE.read_text(encoding="utf-8"))["devices"]:
        hardware = profile(name)
        assert hardware.node_bandwidth <= hardware.bandwidth * 1.2, name
        assert hardware.node_latency >= hardware.latency
        assert hardware.bandwidth < hardware.memory_bandwidth < 1e13


def test_rates_by_size() -> None:
    hardware = profile("cpu")
    assert hardware.rate(100) == hardware.matmul
    slow = replace(hardware, half_rate=300.0)
    assert slow.rate(300) == hardware.matmul / 2
    assert slow.rate(900) == pytest.approx(0.75 * hardware.matmul)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a calibration take no time."""
    for name, size in {
        "_MANY": 64,
        "_FEW": 8,
        "_TOKENS": 64,
        "_COPIED": 1 << 16,
        "_ROWS": 8,
    }.items():
        monkeypatch.setattr(calibration, name, size)
    for name in ("_PICTURE", "_SMALL_PICTURE"):
        monkeypatch.setattr(calibration, name, (1, 8, 8))


@pytest.mark.usefixtures("small")
def test_channels_and_rows_have_a_half_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: n / (n + half) of a rate, with 32 channels and 100 rows at half of theirs."""
    monkeypatch.setattr(calibration, "_convolution_rate", lambda n, *_: 6e9 * n / (n + 32))
    monkeypatch.setattr(calibration, "_product_rate", lambda n, *_: 9e9 * n / (n + 100))
    _, _, numbers = calibration.calibrate(torch.device("cpu"))
    assert numbers["half_channels"][0] == pytest.approx(32)
    assert numbers["convolution"][0] == pytest.approx(6e9)
    for dtype in ("float32", "bfloat16"):
        assert numbers["half_rate"][dtype][0] == pytest.approx(100)
        assert numbers["matmul"][dtype][0] == pytest.approx(9e9)


@pytest.mark.usefixtures("small")
def test_a_calibration_is_read_back(tmp_path: Path) -> None:
    found = calibration.calibrate(torch.device("cpu"))
    file = tmp_path / "here.yaml"
    file.write_text(calibration_text(*found), encoding="utf-8")
    hardware, numbers = profile(str(file), torch.float32), found[2]
    assert set(numbers) == {*NUMBERS, *OF_DTYPES}
    assert hardware.matmul == numbers["matmul"]["float32"][0] > 0
    assert hardware.bandwidth == numbers["bandwidth"][0] > 0
    assert hardware.passes == numbers["passes"]["float32"][0] > 0
    assert hardware.cpu
    file.write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no file of longtake calibrate, or of an earlier"):
        profile(str(file))
