"""Checksums of a model's files: whether ranks, or a run that goes on later, read the same ones.

A file of less than 64 MiB is read whole. Of larger weights, for which a run would wait for its
disk, a sample is: the header, where each tensor begins, and as many places evenly in between.
Whatever trains a model, or merges something into it, changes numbers in each tensor that it
touches. A single bit that a disk has turned in between is not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from longtake.errors import ConfigurationError, ModelError
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.lora import LoraFile
from longtake.models.loading.weight_files import SAFETENSORS

_SETTINGS: Final = (".json", ".model", ".txt", ".jinja")
"""Endings of what is read beside weights."""
_ADAPTER: Final = "adapter_config.json"
"""What peft writes beside a LoRA, which says how strong it is."""
_WHOLE: Final = 1 << 26
"""Bytes of a file that is read whole."""
_PIECE: Final = 1 << 12
"""Bytes that are read at a place of a larger one."""
_PLACES: Final = 256
"""Places in a larger file, evenly, beside those where tensors begin."""
_LENGTH: Final = 8
"""Bytes that say how long the header of a safetensors file is."""


def checksums(folder: ModelFolder) -> dict[str, str]:
    """Return a checksum of each file that is read, by what it is in the model.

    So they do not depend on where the model is. Of a hub model that is nothing but weights of its
    own and LoRAs: the commit says what its files are. Files that are not here are left out.

    Args:
        folder: The model.
    """
    return {name: checksum_of_file(file) for name, file in _files(folder) if file.is_file()}


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


def check_unchanged(
    then: Mapping[str, str], now: Mapping[str, str], run: Path, pipeline: str
) -> None:
    """Refuse to go on with a run whose model has changed since it was begun.

    Args:
        then: Checksums when it was begun.
        now: As they are.
        run: Its folder.
        pipeline: What the user calls the model.

    Raises:
        ConfigurationError: Names the first file that differs, then and now.
    """
    for name in sorted(then.keys() | now.keys()):
        old, new = then.get(name), now.get(name)
        if old == new:
            continue
        how = f"it had the checksum {old} and has {new} now"
        if new is None:
            how = f"it had the checksum {old} and is not there now"
        if old is None:
            how = f"it was not there, and has the checksum {new} now"
        raise ConfigurationError(
            f"the run in {run} cannot go on: {name} of the model {pipeline} is not what the run "
            f"was begun with ({how}), so the video would change in its midst. Bring the file back, "
            f"name a folder that holds it (model.pipeline, model.weights, model.lora), or begin "
            f"the video anew with another --output."
        )


def _files(folder: ModelFolder) -> Iterator[tuple[str, Path]]:
    """Yield the files that a rank may read, with what each is in the model."""
    if folder.hub is None:
        yield "model_index.json", folder.path / "model_index.json"
        for component in folder.components:
            weights = component in folder.weighted
            for file in _settings_in(folder.path / component, config_alone=weights):
                yield f"{component}/{file.name}", file
    for component in folder.weighted:
        if folder.hub is None or folder.own_weights(component) is not None:
            for file in _weights_of(folder, component):
                yield f"{component}/{file.name}", file
    for number, lora in enumerate(folder.loras):
        file = LoraFile(lora).path
        yield f"LoRA {number}", file
        yield f"LoRA {number}, {_ADAPTER}", file.with_name(_ADAPTER)


def _settings_in(path: Path, *, config_alone: bool) -> list[Path]:
    """Return files of a component that are no weights: its configuration, or a tokenizer's all."""
    names = "config.json" if config_alone else "*"
    return sorted(file for file in path.glob(names) if file.suffix in _SETTINGS)


def _weights_of(folder: ModelFolder, component: str) -> list[Path]:
    try:
        return sorted(set(folder.weight_files(component).values()))
    except ModelError:  # whoever reads them says so
        return []


def checksum_of_file(file: Path) -> str:
    """Return the checksum of a file: of all of it, or of a sample where it is large.

    Args:
        file: Of weights, or of settings.
    """
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        if size < _WHOLE or file.suffix != SAFETENSORS:
            return hashlib.file_digest(content, _new).hexdigest()
        digest, descriptor = _new(str(size).encode()), content.fileno()
        begin = _LENGTH + int.from_bytes(os.pread(descriptor, _LENGTH, 0), "little")
        header = os.pread(descriptor, begin, 0)
        digest.update(header)
        for place in sorted({*_begins(header), *range(begin, size, -(-size // _PLACES))}):
            digest.update(os.pread(descriptor, _PIECE, place))
        digest.update(os.pread(descriptor, _PIECE, size - _PIECE))
    return digest.hexdigest()


def _begins(header: bytes) -> Iterator[int]:
    """Yield where in a safetensors file each tensor begins."""
    said = json.loads(header[_LENGTH:])
    for name, tensor in said.items():
        if name != "__metadata__":
            yield len(header) + int(tensor["data_offsets"][0])


def _new(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=8)
