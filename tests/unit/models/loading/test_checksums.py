"""Checksums of a model's files: machines that hold other ones are told which."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longtake.errors import ConfigurationError
from longtake.models import open_folder
from longtake.models.loading import checksums as module
from longtake.models.loading.checksums import check_alike, checksums
from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


def changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["vae/config.json", "text_encoder/model.safetensors"])
def test_a_file_that_differs_is_named_with_its_rank(whole: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    here, alike = checksums(open_folder(str(whole))), checksums(open_folder(str(copy)))
    assert len(here) >= 6
    assert here == alike
    check_alike([here, alike], "m")
    there = checksums_of_changed(copy, name)
    with pytest.raises(ConfigurationError, match=f"rank 2 finds another {name} of m"):
        check_alike([here, alike, there], "m")


def test_of_a_large_file_every_tensor_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four tensors, the second is so long that a change in its midst is seen as well."""
    monkeypatch.setattr(module, "_WHOLE", 1)
    monkeypatch.setattr(module, "_PLACES", 8)
    lengths = {"a": 10, "b": 100_000, "c": 20_000, "d": 3_000}
    tensors = {name: torch.arange(float(length)) for name, length in lengths.items()}
    file = tmp_path / "weights.safetensors"

    def checksum_with(name: str, at: int, value: float) -> str:
        changed = {one: tensor.clone() for one, tensor in tensors.items()}
        changed[name][at] = value
        save_file(changed, file)
        return module.checksum_of_file(file)

    same = checksum_with("a", 0, 0.0)
    assert checksum_with("a", 0, 0.0) == same
    places = [("a", 1), ("b", 0), ("c", 7), ("d", 0), ("d", -1)]
    places += [("b", at) for at in range(400, 100_000, 500)]
    found = [checksum_with(name, at, -1.0) != same for name, at in places]
    assert found[:5] == [True] * 5, "where tensors begin, and where the file ends"
    # 8 places and 3 more beginnings of 4 KiB, in 492 KB.
    assert 0.05 < sum(found[5:]) / len(found[5:]) < 0.1


def test_what_is_not_read_does_not_count(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    here = checksums(open_folder(str(copy)))
    (copy / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other")
    (copy / "README.md").write_text("a word")
    assert checksums(open_folder(str(copy))) == here


def checksums_of_changed(copy: Path, name: str) -> dict[str, str]:
    folder = open_folder(str(copy))
    changed(copy / name)
    return checksums(folder)
