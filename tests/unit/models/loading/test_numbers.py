"""Numbers in configuration files that no model has: refused when the folder is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longtake.errors import ModelError
from longtake.models import open_folder
from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_wan_folder(tmp_path / "tiny").path


def changed(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("text_encoder", {"num_layers": 10**9}),
        ("transformer", {"num_layers": 10**6}),
        ("vae", {"num_res_blocks": 2**31}),
        ("transformer", {"ffn_dim": 2**63}),
        ("transformer", {"patch_size": [1, 2, 10**30]}),
    ],
)
def test_modules_are_not_built_without_end(path: Path, part: str, settings: dict[str, Any]) -> None:
    changed(path / part / "config.json", **settings)
    with pytest.raises(ModelError, match="but no model has more than"):
        open_folder(str(path))


@pytest.mark.parametrize(
    ("part", "settings", "said"),
    [
        (
            "vae",
            {"latents_mean": [0.0] * 16},
            "16 numbers in latents_mean, but latents of 4 channels",
        ),
        ("vae", {"latents_std": [1.0] * 3}, "3 numbers in latents_std, but latents of 4 channels"),
        (
            "vae",
            {"latents_std": [1.0, 1.0, 0.0, 1.0]},
            "0.0 in latents_std.* a finite number other",
        ),
        ("vae", {"latents_mean": [0.0, 0.0, None, 0.0]}, "None in latents_mean"),
        ("vae", {"latents_mean": [0.0, 0.0, float("inf"), 0.0]}, "inf in latents_mean"),
        ("transformer", {"eps": float("nan")}, "sets eps to NaN"),
    ],
)
def test_numbers_that_make_black_videos_are_refused(
    path: Path, part: str, settings: dict[str, Any], said: str
) -> None:
    changed(path / part / "config.json", **settings)
    with pytest.raises(ModelError, match=said):
        open_folder(str(path))


def test_a_sampler_without_a_number_is_refused(path: Path) -> None:
    changed(path / "scheduler" / "scheduler_config.json", flow_shift=float("nan"))
    with pytest.raises(ModelError, match="sets flow_shift to NaN"):
        open_folder(str(path)).config("scheduler")
