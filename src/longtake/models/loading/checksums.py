"""Checksums of a model's files: whether the machines of a run hold the same ones.

Of weights a sample is read, so that nothing waits for a disk: the size, the header, the first
numbers and the last ones, which differ between any two trainings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from longtake.errors import ConfigurationError
from longtake.models.loading.folder import ModelFolder
from longtake.paths import expanded

_READ: Final = (".json", ".safetensors", ".model", ".txt")
_SAMPLE: Final = 1 << 16


def checksums(folder: ModelFolder) -> dict[str, str]:
    """Return a checksum of each file that ranks read, by its name.

    Of a hub model that is nothing but its LoRAs: the commit says what its files are.

    Args:
        folder: The model.
    """
    return {name: _checksum(file) for name, file in _files(folder) if file.is_file()}


def check_alike(found: Sequence[Mapping[str, str]], pipeline: str) -> None:
    """Refuse machines that hold other files by the same names.

    Args:
        found: Every rank's checksums.
        pipeline: What the user calls the model.

    Raises:
        ConfigurationError: Names the first such rank and file.
    """
    first = found[0]
    for rank, other in enumerate(found[1:], start=1):
        for name in sorted(first.keys() & other.keys()):
            if first[name] != other[name]:
                raise ConfigurationError(
                    f"rank {rank} finds another {name} of {pipeline} on its machine than rank 0 "
                    f"on its own; copy the files, or put them where all machines read them."
                )


def _files(folder: ModelFolder) -> Iterator[tuple[str, Path]]:
    if folder.hub is None:
        for component in folder.components:
            for file in _in(folder.path / component):
                yield f"{component}/{file.name}", file
    own = [path for path in (folder.weights, folder.weights_2) if path is not None]
    for path in [*own, *(expanded(lora.path) for lora in folder.loras)]:
        for file in _in(path):
            yield str(file), file


def _in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*") if file.suffix in _READ)


def _checksum(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        digest.update(content.read(_SAMPLE))
        content.seek(max(0, size - _SAMPLE))
        digest.update(content.read(_SAMPLE))
    return digest.hexdigest()[:16]
