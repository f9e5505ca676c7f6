"""Checksums of a model's files: machines that hold other ones are told which."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from longtake.errors import ConfigurationError
from longtake.models import open_folder
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


def checksums_of_changed(copy: Path, name: str) -> dict[str, str]:
    folder = open_folder(str(copy))
    changed(copy / name)
    return checksums(folder)
