"""Model folders: what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from longtake.errors import ModelError
from longtake.models import ModelFolder, family_of, open_folder
from longtake.models.wan import WanFamily


def make_folder(path: Path, **index: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"} | index))
    return path


def add_file(folder: Path, name: str, content: str = "") -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def opened(path: Path, **index: Any) -> ModelFolder:
    return open_folder(str(make_folder(path, **index)))


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "nonsense", "~/none"])
def test_a_name_that_is_nothing_is_refused_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", None)
    with pytest.raises(ModelError, match=r"no such folder, and it is no hub id.*demo") as refused:
        open_folder(name)
    assert repr(name) in str(refused.value)


def test_what_the_hub_does_not_give_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **_options: Any) -> str:
        raise OSError("no route\nto the hub")

    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", offline)
    with pytest.raises(ModelError, match=r"'owner/name'.*hub has not given it: no route$"):
        open_folder("owner/name")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        open_folder(str(tmp_path))
    add_file(tmp_path, "model_index.json", "{}")
    with pytest.raises(ModelError, match="names no pipeline class"):
        open_folder(str(tmp_path))
    add_file(tmp_path, "model_index.json", '{"_class_name": []}')
    with pytest.raises(ModelError, match="names no pipeline class"):
        open_folder(str(tmp_path))
    add_file(tmp_path, "model_index.json", "[]")
    with pytest.raises(ModelError, match="is not a JSON object"):
        open_folder(str(tmp_path))
    add_file(tmp_path, "model_index.json", "{")
    with pytest.raises(ModelError, match=r"model_index\.json cannot be read as JSON"):
        open_folder(str(tmp_path))


def test_components_are_those_that_the_index_names(tmp_path: Path) -> None:
    index = {"vae": ["diffusers", "AutoencoderKLWan"], "transformer_2": [None, None]}
    folder = opened(tmp_path, **index)
    assert folder.has("vae")
    assert not folder.has("transformer_2")
    assert not folder.has("image_encoder")
    assert folder.class_name("vae") == "AutoencoderKLWan"
    with pytest.raises(ModelError, match=r"model_index\.json names no transformer_2"):
        folder.class_name("transformer_2")
    with pytest.raises(ModelError, match=r"vae/config\.json is missing"):
        folder.config("vae")


def test_weights_are_one_file_or_shards_with_an_index(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add_file(tmp_path, "vae/model.safetensors")  # under a name of one's own
    assert folder.weight_files("vae") == {"": tmp_path / "vae/model.safetensors"}
    add_file(tmp_path, "vae/other.safetensors")
    with pytest.raises(ModelError, match=r"holds 2 safetensors files but no .*index\.json"):
        folder.weight_files("vae")
    shards = json.dumps({"weight_map": {"a": "model.safetensors", "b": "third.safetensors"}})
    add_file(tmp_path, "vae/model.safetensors.index.json", shards)
    with pytest.raises(ModelError, match=r"names the shard third\.safetensors, which is missing"):
        folder.weight_files("vae")
    add_file(tmp_path, "vae/third.safetensors")
    found = {key: file.name for key, file in folder.weight_files("vae").items()}
    assert found == {"a": "model.safetensors", "b": "third.safetensors"}


def test_a_shard_outside_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = opened(tmp_path / "model")
    add_file(tmp_path, "secret.safetensors")
    shards = json.dumps({"weight_map": {"a": "../../secret.safetensors"}})
    add_file(tmp_path / "model", "vae/model.safetensors.index.json", shards)
    with pytest.raises(ModelError, match="shards are files in its folder"):
        folder.weight_files("vae")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
def test_pickles_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    folder = opened(tmp_path)
    add_file(tmp_path, f"vae/{name}")
    with pytest.raises(ModelError, match=f"{name}, a pickle.*save_pretrained"):
        folder.weight_files("vae")
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(ModelError, match="vae holds no safetensors weights"):
        folder.weight_files("vae")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wan.safetensors", "a single file, in its trainer's own layout"),
        ("wan-Q4_K_M.gguf", r"quantized blocks \(GGUF\)"),
        ("wan.pt", "a pickle"),
        ("wan.pth", "a pickle"),
        ("wan.ckpt", "a pickle"),
    ],
)
def test_single_files_are_refused_with_what_to_use_instead(
    tmp_path: Path, name: str, kind: str
) -> None:
    add_file(tmp_path, f"given/{name}")
    for given in (tmp_path / "given" / name, tmp_path / "given"):
        with pytest.raises(ModelError, match=rf"{name}, .*{kind}.*-Diffusers.*from_single_file"):
            open_folder(str(given))


def test_one_component_is_no_pipeline(tmp_path: Path) -> None:
    add_file(tmp_path, "config.json", "{}")
    add_file(tmp_path, "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match=r"no model_index\.json: it seems to be one component"):
        open_folder(str(tmp_path))


def test_quantized_blocks_in_a_component_are_refused_by_name(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add_file(tmp_path, "transformer/wan-Q8_0.gguf")
    with pytest.raises(ModelError, match=r"wan-Q8_0\.gguf, in quantized blocks \(GGUF\).*bfloat16"):
        folder.weight_files("transformer")


def test_a_local_folder_has_no_revision(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(ModelError, match=r"model\.revision is 'main', but .* is a local folder"):
        open_folder(str(tmp_path), revision="main")


def test_the_family_is_found_by_the_pipeline_class(tmp_path: Path) -> None:
    assert isinstance(family_of(opened(tmp_path)), WanFamily)
    with pytest.raises(ModelError, match=r"a WanTextPipeline, which is not.*is WanPipeline"):
        family_of(opened(tmp_path, _class_name="WanTextPipeline"))


@pytest.mark.parametrize(
    "named", [[], ["diffusers"], [1, 2], ["a", "b", "c"], [None, "X"], [[], {}], "x", 5]
)
@pytest.mark.parametrize("component", ["vae", "text_encoder_2", "tokenizer", "scheduler"])
def test_a_component_that_is_not_named_by_a_library_and_a_class_is_refused(
    tmp_path: Path, component: str, named: object
) -> None:
    with pytest.raises(ModelError, match=rf"as its {component}, but it is a library and a class"):
        opened(tmp_path, **{component: named})
