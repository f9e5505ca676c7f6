"""Models on the hub: what is downloaded, at which commit, and what is said before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError, RevisionNotFoundError

from longtake.errors import ModelError
from longtake.models import open_folder

OLD, NEW = "a" * 40, "b" * 40
INDEX = {
    "_class_name": "MochiPipeline",
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "MochiTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLMochi"],
}


def shards(stem: str, names: Sequence[str], variant: str = "") -> dict[str, str]:
    """Return an index and its shards, each with one tensor."""
    index = {"weight_map": {f"tensor{number}": name for number, name in enumerate(names)}}
    files = {f"{stem}.safetensors.index{variant}.json": json.dumps(index)}
    return files | dict.fromkeys(names, "weights")


def mochi() -> dict[str, str]:
    """Return files as genmo/mochi-1-preview has them: plain and bf16, shards, single files."""
    stem = "diffusion_pytorch_model"
    plain = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    small = [f"{stem}.bf16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    transformer = shards(stem, plain) | shards(stem, small, ".bf16")
    encoder = shards("model", ["model-00001-of-00001.safetensors"])
    return {
        "model_index.json": json.dumps(INDEX),
        "dit.safetensors": "its own layout",
        "decoder.safetensors": "its own layout",
        "README.md": "words",
        "text_encoder/config.json": "{}",
        "tokenizer/spiece.model": "words",
        "unused/diffusion_pytorch_model.safetensors": "weights",
        "vae/config.json": "{}",
        f"vae/{stem}.safetensors": "plain weights",
        f"vae/{stem}.bf16.safetensors": "half",
        "transformer/config.json": "{}",
        **{f"transformer/{name}": text for name, text in transformer.items()},
        **{f"text_encoder/{name}": text for name, text in encoder.items()},
    }


@dataclass
class Hub:
    """Stands in for ``snapshot_download``, on the disk."""

    cache: Path
    commits: dict[str, dict[str, str]] = field(default_factory=lambda: {OLD: mochi(), NEW: mochi()})
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW, "v1": OLD})
    online: bool = True
    downloaded: list[str] = field(default_factory=list)

    def __call__(
        self,
        name: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str],
        dry_run: bool = False,
    ) -> Any:
        commit = self.branches.get(revision or "main", revision or "")
        path = self.cache / commit
        if not self.online:
            if dry_run:
                raise DryRunError("no route")
            if not path.is_dir():
                raise LocalEntryNotFoundError("no route\nto the hub")
            return str(path)
        if commit not in self.commits:
            response: Any = SimpleNamespace(headers={}, request=None)
            raise RevisionNotFoundError("404", response=response)
        files = {
            file: text
            for file, text in self.commits[commit].items()
            if any(fnmatch(file, pattern) for pattern in allow_patterns)
        }
        if dry_run:
            return [SimpleNamespace(filename=f, file_size=len(text)) for f, text in files.items()]
        for file, text in files.items():
            if not (path / file).is_file():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_text(text)
                self.downloaded.append(file)
        return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    found = Hub(tmp_path / "cache")
    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", found)
    return found


def weights_of(hub: Hub) -> set[str]:
    return {file for file in hub.downloaded if file.endswith(".safetensors")}


PLAIN_TRANSFORMER = {
    f"transformer/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)
}
SMALL_TRANSFORMER = {
    f"transformer/diffusion_pytorch_model.bf16-0000{number}-of-00002.safetensors"
    for number in (1, 2)
}
ENCODER = {"text_encoder/model-00001-of-00001.safetensors"}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (None, PLAIN_TRANSFORMER | ENCODER | {"vae/diffusion_pytorch_model.safetensors"}),
        ("bf16", SMALL_TRANSFORMER | ENCODER | {"vae/diffusion_pytorch_model.bf16.safetensors"}),
    ],
)
def test_only_the_weights_that_are_read_are_downloaded(
    hub: Hub, variant: str | None, expected: set[str]
) -> None:
    folder = open_folder("genmo/mochi-1-preview", variant=variant)
    assert weights_of(hub) == set(), "no weights before the run is known to be possible"
    assert not folder.is_whole
    folder.fetch_weights()
    assert weights_of(hub) == expected
    assert folder.to_fetch() is None
    read = {file for part in folder.weighted for file in folder.weight_files(part).values()}
    assert {file.relative_to(folder.path).as_posix() for file in read} == expected
    assert set(hub.downloaded) - expected <= {
        file
        for file in mochi()
        if file.endswith((".json", "README.md")) or file.startswith("tokenizer/")
    }


def test_what_is_downloaded_and_how_much_is_said_before(hub: Hub) -> None:
    hub.commits[NEW]["vae/diffusion_pytorch_model.bf16.safetensors"] = "x" * 2_500_000
    said: list[str] = []

    def announce(text: str) -> None:
        assert not weights_of(hub)
        said.append(text)

    folder = open_folder("genmo/mochi-1-preview", variant="bf16")
    folder.fetch_weights(announce)
    [text] = said
    assert text.startswith("downloading 4 files of 2.5 MB from genmo/mochi-1-preview at commit bbb")
    assert text.endswith("variant bf16: text_encoder 0.0 MB, transformer 0.0 MB, vae 2.5 MB")
    folder.fetch_weights(announce)
    assert len(said) == 1, "nothing is left to download"


def test_only_what_is_missing_is_said_to_be_downloaded(hub: Hub) -> None:
    open_folder("genmo/mochi-1-preview").fetch_weights()
    folder = open_folder("genmo/mochi-1-preview", variant="bf16")
    text = folder.to_fetch()
    assert text is not None
    assert text.startswith("3 files ")
    assert "text_encoder" not in text


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"'fp16', but .*mochi-1-preview has .*there is bf16\.$"):
        open_folder("genmo/mochi-1-preview", variant="fp16")
    assert weights_of(hub) == set()


def test_a_revision_is_resolved_to_its_commit(hub: Hub) -> None:
    assert open_folder("owner/name").revision == NEW
    assert open_folder("owner/name", revision="v1").revision == OLD
    assert open_folder("owner/name", revision=OLD).path.name == OLD


def test_the_weights_are_those_of_the_commit_that_was_opened(hub: Hub) -> None:
    folder = open_folder("owner/name")
    hub.branches["main"] = OLD
    folder.fetch_weights()
    files = folder.weight_files("vae").values()
    assert all(file.is_relative_to(hub.cache / NEW) for file in files)


def test_an_unknown_revision_is_refused_by_name(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"model\.revision is 'v9', but owner/name has no such"):
        open_folder("owner/name", revision="v9")


def test_offline_a_model_that_is_in_the_cache_is_used(hub: Hub) -> None:
    open_folder("owner/name").fetch_weights()
    hub.online = False
    folder = open_folder("owner/name")
    assert folder.is_whole
    assert folder.to_fetch() is None
    folder.fetch_weights()
    assert folder.revision == NEW


def test_offline_a_model_that_is_not_in_the_cache_is_refused_in_one_line(hub: Hub) -> None:
    hub.online = False
    with pytest.raises(ModelError, match=r"'owner/name'.*hub has not given it: no route$"):
        open_folder("owner/name")


def test_a_repository_of_single_files_is_refused_with_the_way_out(hub: Hub) -> None:
    hub.commits[NEW] = {"Wan2.1_VAE.pth": "", "config.json": "{}"}
    (hub.cache / NEW).mkdir(parents=True)
    with pytest.raises(ModelError, match=r"owner/name has no model_index\.json: .*pipeline folder"):
        open_folder("owner/name")
    shutil.rmtree(hub.cache / NEW)
