"""Which weight files of a folder are read: those that diffusers and transformers would load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.models import ModelFolder, Placement, family_of, open_folder
from longtake.testing.tiny.base import tiny_wan_folder

PLACE = Placement(torch.device("cpu"), torch.float32)
COMPONENTS = ("text_encoder", "transformer", "vae")
THERE: dict[str, set[str | None]] = {
    "plain": {None},
    "plain shards": {None},
    "fp16": {"fp16"},
    "fp16 shards": {"fp16"},
    "both": {None, "fp16"},
    "both shards": {None, "fp16"},
    "mixed": {None, "fp16"},
}
"""Variants that can be loaded from each layout; in the mixed one the transformer alone has one."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("tiny") / "tiny").path


def lay_out(pipeline: Any, path: Path, layout: str) -> None:
    """Save a pipeline as diffusers does; its fp16 files hold other numbers than its plain ones."""
    options = {"max_shard_size": "20KB"} if "shards" in layout else {}
    if "fp16" not in layout:
        pipeline.save_pretrained(path, **options)
    if "plain" not in layout:
        for part in ("transformer",) if layout == "mixed" else COMPONENTS:
            with torch.no_grad():
                for parameter in getattr(pipeline, part).parameters():
                    parameter.mul_(0.5)
        kept = path.with_name("plain")
        pipeline.save_pretrained(kept if layout == "mixed" else path, variant="fp16", **options)
        if layout == "mixed":
            for file in (kept / "transformer").glob("*fp16*"):
                shutil.copy(file, path / "transformer")


@pytest.fixture(params=THERE)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def saved(tiny: Path, tmp_path: Path, layout: str) -> Path:
    lay_out(DiffusionPipeline.from_pretrained(tiny), tmp_path / "saved", layout)
    return tmp_path / "saved"


def first_weights(folder: ModelFolder) -> dict[str, float]:
    """Return one number of each component, as longtake reads it."""
    return {
        part: sum(
            size_of(load_file(file).values())
            for file in sorted(set(folder.weight_files(part).values()))
        )
        for part in COMPONENTS
    }


def size_of(tensors: Iterable[Tensor]) -> float:
    return sum(float(tensor.double().abs().sum()) for tensor in tensors)


@torch.no_grad()
def numbers_of(pipeline: Any) -> dict[str, float]:
    """Return the same numbers of what diffusers has loaded; tied weights count once."""
    return {part: size_of(getattr(pipeline, part).parameters()) for part in COMPONENTS}


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_files_are_those_that_diffusers_loads(
    saved: Path, layout: str, variant: str | None
) -> None:
    if variant not in THERE[layout]:
        with pytest.raises(ModelError, match=r"model\.variant"):
            open_folder(str(saved), variant=variant).weight_files("transformer")
        return
    folder = open_folder(str(saved), variant=variant)
    expected = numbers_of(DiffusionPipeline.from_pretrained(saved, variant=variant))
    assert first_weights(folder) == pytest.approx(expected, rel=1e-12)
    family = family_of(folder)
    family.load_backbone(folder, family.spec(folder), {0, 1, 2, 3}, PLACE)
    family.load_decoder(folder, PLACE.device)


@pytest.mark.parametrize("layout", ["both", "both shards"], indirect=True)
def test_the_text_encoder_is_read_in_the_variant(saved: Path) -> None:
    prompts = ["a red bird"]
    found = {}
    for variant in (None, "fp16"):
        folder = open_folder(str(saved), variant=variant)
        pipeline = DiffusionPipeline.from_pretrained(saved, variant=variant)
        with torch.no_grad():
            states, _ = pipeline.encode_prompt(prompts, False, max_sequence_length=8)
        found[variant] = family_of(folder).encode_text(folder, prompts, PLACE)["states"]
        assert torch.equal(found[variant], states)
    assert not torch.equal(found[None], found["fp16"])


@pytest.mark.parametrize("layout", ["fp16"], indirect=True)
def test_a_folder_of_a_variant_alone_says_how_to_choose_it(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"as fp16; choose with model\.variant: fp16\.$"):
        open_folder(str(saved)).weight_files("transformer")


@pytest.mark.parametrize("layout", ["both"], indirect=True)
def test_a_variant_that_no_component_has_is_refused_with_those_there(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"'bf16', but no component of .*; there is fp16\.$"):
        open_folder(str(saved), variant="bf16")


@pytest.mark.parametrize("layout", ["plain"], indirect=True)
def test_shards_under_the_earlier_name_of_a_variant_are_found(saved: Path) -> None:
    folder = saved / "transformer"
    [whole] = folder.glob("*.safetensors")
    tensors, names = load_file(whole), []
    for number, keys in enumerate((sorted(tensors)[:5], sorted(tensors)[5:]), start=1):
        names.append(f"diffusion_pytorch_model-0000{number}-of-00002.fp16.safetensors")
        save_file({key: tensors[key] for key in keys}, folder / names[-1])
    where = {key: names[position >= 5] for position, key in enumerate(sorted(tensors))}
    index = folder / "diffusion_pytorch_model.safetensors.fp16.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    whole.unlink()
    files = open_folder(str(saved), variant="fp16").weight_files("transformer")
    assert {key: file.name for key, file in files.items()} == where
