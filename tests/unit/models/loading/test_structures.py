"""Structures of published models in the package: whole, of the right size, and as folders are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from longtake.errors import ModelError
from longtake.models import family_of, load_sampler, open_folder, open_for_plan, registered
from longtake.models.counting import count_weights, tensor_sizes
from longtake.models.loading.hub import is_cached
from longtake.models.loading.structures import structure_of, structured
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.published import published_folder

PUBLISHED = {
    "Wan2.1-T2V": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "Wan2.2-T2V-A14B": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "Wan2.2-TI2V-5B": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "Wan2.1-I2V": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "Wan2.2-I2V-A14B": "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "SkyReels-V2-T2V": "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers",
    "SkyReels-V2-DF-1.3B": "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
    "SkyReels-V2-DF-14B": "Skywork/SkyReels-V2-DF-14B-540P-Diffusers",
    "HunyuanVideo": "hunyuanvideo-community/HunyuanVideo",
    "HunyuanVideo-I2V": "hunyuanvideo-community/HunyuanVideo-I2V",
    "HunyuanVideo-I2V-33ch": "hunyuanvideo-community/HunyuanVideo-I2V-33ch",
    "HunyuanVideo-1.5": "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",
    "CogVideoX-2b": "THUDM/CogVideoX-2b",
    "CogVideoX-5b": "THUDM/CogVideoX-5b",
    "LTX-Video-0.9.0": "Lightricks/LTX-Video",
    "mochi-1-preview": "genmo/mochi-1-preview",
}
"""The hub id that a tiny folder is made like."""
CONVERTED = {f"Open-Sora-Plan-v1.3.0/any93x640x640{kind}" for kind in ("", "_i2v")}
"""Folders of a hub model that are converted before they can be run, named for plans alone."""
MADE_SMALL = (
    "num_layers",
    "num_single_layers",
    "num_attention_heads",
    "ffn_dim",
    "text_dim",
    "image_dim",
    "added_kv_proj_dim",
    "base_dim",
    "num_res_blocks",
    "decoder_base_dim",
    "latents_mean",
    "latents_std",
    "text_embed_dim",
    "pooled_projection_dim",
    "cross_attention_dim",
    "caption_channels",
    "block_out_channels",
    "decoder_block_out_channels",
    "layers_per_block",
    "decoder_layers_per_block",
    "target_size",
    "scaling_factor",
)
"""Settings that are sizes, which a tiny folder has others of, or numbers of which any will do."""


def test_every_published_model_has_a_structure() -> None:
    families = set(registered().values())
    listed = {name for family in families for card in family.cards for name in card.examples}
    assert {name for name in listed if "/" in name} == set(structured()) - CONVERTED


@pytest.mark.parametrize("name", structured())
def test_a_structure_is_a_folder_that_its_family_reads(name: str) -> None:
    folder = open_for_plan(name)
    family = family_of(folder)
    spec, defaults = family.spec(folder), family.defaults(folder)
    assert name in family.card(folder).examples or name in CONVERTED
    count = count_weights(folder, ["transformer"], spec.layers, family.layer_lists)
    assert min(count.layers) > 0
    load_sampler(folder, None, None, defaults.steps, 1000)
    assert folder.structure is not None
    assert all(source.startswith("https://") for source in folder.structure.sources)
    assert not folder.is_whole
    assert folder.to_fetch() is None


@pytest.mark.parametrize(
    ("name", "layers", "width", "inner"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 30, 1536, 8960),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", 40, 5120, 13824),
    ],
)
def test_weights_of_wan_by_hand(name: str, layers: int, width: int, inner: int) -> None:
    """Eight square projections, a feed-forward, four norms of queries and keys, and so on."""
    projections = 8 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    norms = 4 * width + 2 * width  # of queries and keys; before cross-attention
    layer = projections + feed_forward + norms + 6 * width  # the modulation
    count = count_weights(open_for_plan(name), ["transformer"], layers)
    assert count.layers == (layer,) * layers
    embeddings = 16 * 4 * width + width + (256 + 1 + width + 1) * width
    embeddings += (width + 1) * 6 * width + (4096 + 1 + width + 1) * width
    assert count.rest == embeddings + (width + 1) * 64 + 2 * width


def test_weights_of_the_text_encoder_by_hand() -> None:
    """UMT5-XXL: 24 layers with a table of relative positions each, words shared with nothing."""
    sizes = tensor_sizes(open_for_plan("Wan-AI/Wan2.1-T2V-14B-Diffusers"), "text_encoder")
    layer = 4 * 4096**2 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096
    assert sum(sizes.values()) == 256384 * 4096 + 24 * layer + 4096


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_structure_is_as_a_folder_is_published(name: str, tmp_path: Path) -> None:
    tiny, structure = published_folder(name, tmp_path / "model"), structure_of(PUBLISHED[name])
    assert structure is not None
    assert _index(structure.files["model_index.json"]) == _index(tiny.index)
    for component in ("transformer", "vae", "scheduler"):
        name_of = "scheduler/scheduler_config.json"
        file = name_of if component == "scheduler" else f"{component}/config.json"
        _compare(structure.files[file], tiny.settings(file))


@pytest.mark.parametrize("name", sorted(CONVERTED))
def test_weights_of_open_sora_plan_are_as_large_as_those_published(name: str) -> None:
    """Files of 11.1 GB in fp32 each, as the hub lists them."""
    sizes = tensor_sizes(open_for_plan(name), "transformer")
    assert 4 * sum(sizes.values()) == pytest.approx(11.1e9, rel=0.005)
    assert sum(tensor_sizes(open_for_plan(name), "vae").values()) > 1e8


def test_weights_of_llava_by_hand() -> None:
    """Llama 3 with a ViT-L of 24 layers, of which the last is not read, and two projections."""
    sizes = tensor_sizes(open_for_plan("hunyuanvideo-community/HunyuanVideo-I2V"), "text_encoder")
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    llama = 2 * 128320 * 4096 + 32 * layer + 4096
    vision = 24 * (4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024)
    vision += 1024 + 3 * 14**2 * 1024 + (576 + 1) * 1024 + 4 * 1024
    assert sum(sizes.values()) == llama + vision + 1024 * 4096 + 4096 + 4096**2 + 4096


def _index(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a folder is read: no versions, nor parts that are not there."""
    return {
        key: value
        for key, value in content.items()
        if value not in (None, False, [None, None])
        and key not in ("_diffusers_version", "image_processor")  # the latter by torchvision
    }


def _compare(told: Any, found: Any) -> None:
    plain = {key: value for key, value in told.items() if key not in MADE_SMALL}
    assert plain == {key: found[key] for key in plain}


def test_structures_are_as_the_folders_in_the_cache() -> None:
    cached = [name for name in structured() if is_cached(name)]
    if not cached:
        pytest.skip("no published model is in the hub's cache")
    for name in cached:
        structure, folder = structure_of(name), open_folder(name)
        assert structure is not None
        for file, told in structure.files.items():
            found = folder.index if file == "model_index.json" else folder.settings(file)
            assert dict(told) == {key: found.get(key) for key in told}, f"{name}: {file}"


def test_a_folder_of_that_name_goes_before_the_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    tiny_wan_folder(tmp_path / name)
    assert open_for_plan(name).structure is None


def test_a_structure_lacks_what_it_does_not_say() -> None:
    folder = open_for_plan("Wan-AI/Wan2.1-T2V-14B-Diffusers")
    with pytest.raises(ModelError, match=r"in the package lacks image_encoder/config\.json"):
        folder.config("image_encoder")


def test_a_commit_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError):
        open_for_plan("Wan-AI/Wan2.1-T2V-14B-Diffusers", revision="main")
