"""``model.weights``: a transformer from a file of its own, in its authors' names or diffusers'."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.framework.engine.preflight import check_modules
from longtake.models import ModelFolder, Placement, open_folder
from longtake.models.blank import BlankModel
from longtake.models.counting import count_weights
from longtake.models.loading import weights as loading
from longtake.models.loading.hub import HubSnapshot
from longtake.models.wan.family import keep_wan_layers
from longtake.testing.tiny.base import tiny_wan_folder

PLACE = Placement(torch.device("cpu"), torch.float32)
THEIRS = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    ("proj_out.", "head.head."),
)
"""Written by hand from the names in Wan's own code: the test is not to use what it tests."""


def original(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in THEIRS:
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("tiny") / "tiny").path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Return another transformer's tensors by diffusers' names: those that are to be read."""
    folder = tiny_wan_folder(tmp_path_factory.mktemp("other") / "other", seed=7)
    tensors: dict[str, Tensor] = load_file(
        next((folder.path / "transformer").glob("*.safetensors"))
    )
    return tensors


def written(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return str(path)


def checked(folder: ModelFolder) -> None:
    check_modules(BlankModel.of(folder), weights=True)


def read(tiny: Path, weights: str, layers: range = range(4)) -> dict[str, Any]:
    folder = open_folder(str(tiny), weights=weights)
    transformer = loading.load_module(
        folder,
        "transformer",
        WanTransformer3DModel.from_config,
        PLACE,
        prune=partial(keep_wan_layers, layers=layers),
    )
    return dict(transformer.state_dict())


@pytest.mark.parametrize(
    "prefix",
    ["", "model.", "generator.", "generator_ema.model.", "model.diffusion_model.",
     "model._fsdp_wrapped_module."],
)  # fmt: skip
@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_a_file_is_read_under_either_names(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path, names: str, prefix: str
) -> None:
    stored = {original(key) if names == "original" else key: t for key, t in other.items()}
    assert names == "diffusers" or "blocks.0.self_attn.q.weight" in stored
    found = read(tiny, written(tmp_path / "x.safetensors", stored, prefix))
    assert found.keys() == other.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("part", ["", "transformer"])
def test_a_folder_of_shards_is_read(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path, part: str
) -> None:
    """As causal models come: in a pipeline of a class that diffusers does not have."""
    folder = tiny_wan_folder(tmp_path / "other", seed=7, shard_size="20KB")
    (folder.path / "model_index.json").write_text('{"_class_name": "WanCausalDMDPipeline"}')
    assert len(list((folder.path / "transformer").glob("*.safetensors"))) > 1
    found = read(tiny, str(folder.path / part))
    assert found.keys() == other.keys()
    assert all(torch.equal(found[key], other[key]) for key in other)


def test_only_the_own_layers_are_read(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = written(tmp_path / "x.safetensors", {original(k): t for k, t in other.items()})
    asked: list[str] = []
    really: Any = safe_open

    class Noting:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._file = really(*arguments, **options)

        def __enter__(self) -> Noting:
            self._reader = self._file.__enter__()
            return self

        def __exit__(self, *what: object) -> None:
            self._file.__exit__(*what)

        def get_tensor(self, key: str) -> Tensor:
            asked.append(key)
            return self._reader.get_tensor(key)  # type: ignore[no-any-return]

    monkeypatch.setattr(loading, "safe_open", Noting)
    found = read(tiny, weights, range(1, 2))
    layers = {key.split(".")[1] for key in asked if key.startswith("blocks.")}
    assert layers == {"1"}
    assert len(asked) == len(set(asked)) == len(found)


def test_its_headers_are_checked_and_its_weights_counted(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path
) -> None:
    stored = {original(key): tensor for key, tensor in other.items()}
    folder = open_folder(str(tiny), weights=written(tmp_path / "x.safetensors", stored))
    checked(folder)
    for own in (folder, open_folder(str(tiny))):
        count = count_weights(own, ["transformer"], 4, ["blocks"])
        assert sum(count.layers) + count.rest == sum(tensor.numel() for tensor in other.values())
        assert len(set(count.layers)) == 1
    lacking = {key: tensor for key, tensor in stored.items() if "blocks.2.ffn.0.b" not in key}
    folder = open_folder(str(tiny), weights=written(tmp_path / "y.safetensors", lacking))
    with pytest.raises(ModelError, match=r"blocks.2.ffn.net.0.proj.bias"):
        checked(folder)
    misshapen = stored | {"blocks.1.self_attn.q.weight": torch.ones(2, 2)}
    folder = open_folder(str(tiny), weights=written(tmp_path / "z.safetensors", misshapen))
    with pytest.raises(ModelError, match=r"z.safetensors has shape \(2, 2\)"):
        checked(folder)


def test_the_pipelines_own_transformer_is_not_needed(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "lean")
    for file in (tmp_path / "lean" / "transformer").glob("*.safetensors"):
        file.unlink()
    weights = written(tmp_path / "x.safetensors", other)
    folder = open_folder(str(tmp_path / "lean"), weights=weights)
    assert folder.is_whole
    checked(folder)
    sizes = {"transformer/diffusion_pytorch_model.safetensors": 9, "vae/x.safetensors": 3}
    hub = HubSnapshot(name="a/b", commit="0" * 40, path=folder.path, sizes=sizes)
    assert replace(folder, hub=hub, weights=None).to_fetch() is not None
    assert replace(folder, hub=hub).to_fetch() is None, "its own is not downloaded"


def test_what_is_no_file_of_a_transformer_is_refused(
    tiny: Path, other: dict[str, Tensor], tmp_path: Path
) -> None:
    both = {
        f"{root}.{key}": other[key].clone() for root in ("generator", "critic") for key in other
    }
    folder = open_folder(str(tiny), weights=written(tmp_path / "two.safetensors", both))
    with pytest.raises(ModelError, match="more than one model: critic, generator"):
        checked(folder)
    folder = open_folder(
        str(tiny), weights=written(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    )
    with pytest.raises(ModelError, match="holds no tensor that the transformer has"):
        checked(folder)
    for name in ("x.pt", "x.pth", "x.ckpt", "x.bin"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ModelError, match=rf"longtake convert .*{name} makes x.safetensors"):
            open_folder(str(tiny), weights=str(tmp_path / name))
        with pytest.raises(ModelError, match=rf"longtake convert .*{name} makes safetensors"):
            open_folder(str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "holds no safetensors weights"), ("none.pt", "no such file")):
        with pytest.raises(ModelError, match=words):
            open_folder(str(tiny), weights=str(tmp_path / name))
    (tmp_path / "empty" / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"longtake convert .*empty/model.bin"):
        open_folder(str(tiny), weights=str(tmp_path / "empty"))
    experts = tiny_wan_folder(tmp_path / "experts", experts=2).path
    with pytest.raises(ModelError, match=r"one transformer, but .* has 2 experts"):
        open_folder(str(experts), weights=written(tmp_path / "x.safetensors", other))
    for name in ("x.gguf", "x.GGUF"):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(ModelError, match=rf"{name}, a file of quantized blocks \(GGUF\)"):
            open_folder(str(tiny), weights=str(tmp_path / name))
