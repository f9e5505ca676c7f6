"""Adapters stay short, cards and the README say what is so."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import torch

from longtake.errors import ModelError
from longtake.models import KINDS, ModelFolder, Placement, family_of, registered
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.cogvideox import (
    tiny_cogvideox15_folder,
    tiny_cogvideox_folder,
    tiny_cogvideox_i2v_folder,
)
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder, tiny_hunyuan15_i2v_folder
from longtake.testing.tiny.ltx import tiny_ltx_condition_folder, tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_folder
from longtake.testing.tiny.published import published_folder
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_folder, tiny_skyreels_i2v_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_folder

ROOT = Path(__file__).parents[3]
LONGEST_MEDIAN = 110


def the_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adapter_table", ROOT / "tools/adapter_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_median_adapter_is_short() -> None:
    files = sorted((ROOT / "src/longtake/models").glob("*/backbone.py"))
    counted = subprocess.run(["wc", "-l", *files], capture_output=True, text=True, check=True)
    lines = [int(line.split()[0]) for line in counted.stdout.splitlines()[:-1]]
    assert len(lines) == len(files) >= 8
    assert median(lines) <= LONGEST_MEDIAN
    assert list(the_tool().adapters().values()) == lines


def test_the_readme_has_the_table_as_it_is_now() -> None:
    tool = the_tool()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = (f"<!-- tools/adapter_table.py: {place} -->\n" for place in ("begin", "end"))
    assert readme.count(begin) == readme.count(end) == 1
    assert tool.replaced(readme) == readme, "python tools/adapter_table.py --write"


def test_every_bundled_family_has_cards() -> None:
    bundled = {
        pipeline: family
        for pipeline, family in registered().items()
        if family.__module__.startswith("longtake.models.")
    }
    assert len(bundled) >= 10
    for pipeline, family in bundled.items():
        assert any(card.pipeline == pipeline for card in family.cards), pipeline


FOLDERS: list[Callable[[Path], ModelFolder]] = [
    tiny_wan_folder,
    tiny_ti2v_folder,
    tiny_wan_i2v_folder,
    tiny_hunyuan_folder,
    partial(published_folder, "HunyuanVideo-I2V"),
    partial(published_folder, "HunyuanVideo-I2V-33ch"),
    tiny_hunyuan15_folder,
    tiny_hunyuan15_i2v_folder,
    tiny_cogvideox_folder,
    tiny_cogvideox15_folder,
    tiny_cogvideox_i2v_folder,
    tiny_mochi_folder,
    tiny_ltx_folder,
    tiny_ltx_condition_folder,
    tiny_open_sora_plan_folder,
    tiny_skyreels_folder,
    tiny_skyreels_i2v_folder,
]


@pytest.mark.parametrize("make", FOLDERS)
def test_cards_agree_with_folders(make: Callable[[Path], ModelFolder], tmp_path: Path) -> None:
    folder = make(tmp_path / "tiny")
    family = family_of(folder)
    spec = family.spec(folder)
    starts = {"refused": "none", "replaced": "optional", "given": "always", "channels": "always"}
    card = family.card(folder)
    assert card in family.cards
    assert card.pipeline == folder.pipeline
    assert card.timestep == spec.timestep
    assert card.start == starts[spec.start]
    assert card.honours == {kind: spec.honours(kind) for kind in KINDS}
    assert card.guidance in (spec.guidance, "either")
    if folder.pipeline != "CogVideoXPipeline":  # its configuration says how long its clips are
        assert card.native_frames == spec.native_frames


@pytest.mark.parametrize("make", FOLDERS)
def test_what_is_held_is_encoded_and_what_is_refused_is_not(
    make: Callable[[Path], ModelFolder], tmp_path: Path
) -> None:
    """A picture in the middle of a video: its latent frame, and the one that leads to it."""
    folder = make(tmp_path / "tiny")
    family = family_of(folder)
    spec, place = family.spec(folder), Placement(torch.device("cpu"), torch.float32)
    side = 2 * spec.compression.spatial * max(spec.patch)
    picture = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)
    if spec.start == "refused":
        with pytest.raises(ModelError, match="cannot encode frames"):
            family.encode_still(folder, spec, picture, 7, place)
        return
    if spec.honours("keyframes") == "refused":  # it knows given frames as a video's first ones
        return
    for frame, held in ((0, [0]), (1, [0, 1]), (7, [6, 7])):
        found = family.encode_still(folder, spec, picture, frame, place)
        assert list(found) == held
        latent = side // spec.compression.spatial
        for one in found.values():
            assert one.shape == (1, spec.channels, 1, latent, latent)
            assert one.isfinite().all()
