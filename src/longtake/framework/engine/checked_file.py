"""Checked files: named tensors in safetensors, with a checksum, whole on the disk or not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longtake.errors import OutputError
from longtake.framework.engine.run_folder import replacing

FORMAT: Final = 1
"""Of the files that a run leaves; another number is refused."""
_METADATA: Final = "longtake"
"""The only name in a file's metadata: safetensors writes several in an order of chance."""


class DamagedFile(OutputError):
    """A file of a run that is missing, torn, changed, or of another format."""

    code: ClassVar[str] = "LT-DAMAGED"


def save_checked(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts into a file; whoever looks sees all of it or none.

    Args:
        path: The file.
        tensors: By name, on the CPU, none of which shares memory with another.
        facts: What JSON can say.

    Raises:
        OutputError: The disk refuses.
    """
    said = {"format": FORMAT, **facts}
    checksum = _digest(_text(said), sorted(tensors), tensors.__getitem__)
    metadata = {_METADATA: _text({"checksum": checksum, "facts": said})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(dict(tensors), temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write {path}: {error}.") from error


def facts_of(path: Path) -> dict[str, Any]:
    """Return a file's facts, its tensors unread and unchecked.

    Raises:
        DamagedFile: There is no such file, or it is none of ours.
    """
    facts: dict[str, Any] = _opened(path, lambda file: _facts(path, file)[0])
    return facts


def names_of(path: Path) -> list[str]:
    """Return the names of a file's tensors.

    Raises:
        DamagedFile: There is no such file.
    """
    names: list[str] = _opened(path, lambda file: list(file.keys()))
    return names


def check(path: Path) -> dict[str, Any]:
    """Read all of a file, tensor by tensor, and return its facts.

    Raises:
        DamagedFile: It is not what was written.
    """

    def checked(file: Any) -> dict[str, Any]:
        facts, checksum = _facts(path, file)
        if _digest(_text(facts), sorted(file.keys()), file.get_tensor) != checksum:
            raise DamagedFile(f"{path} is damaged: its checksum is another one than was written.")
        return facts

    facts: dict[str, Any] = _opened(path, checked)
    return facts


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors by name, on the CPU, and its facts.

    Raises:
        DamagedFile: It is not what was written.
    """
    facts = check(path)
    tensors = _opened(
        path, lambda file: {name: file.get_tensor(name) for name in list(file.keys())}
    )
    return tensors, facts


def read_tensor(path: Path, name: str) -> Tensor:
    """Return one tensor of a file that has been checked.

    Raises:
        DamagedFile: It is not there any more.
    """
    tensor: Tensor = _opened(path, lambda file: file.get_tensor(name))
    return tensor


def _opened(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, "pt") as file:
            return read(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}.") from error


def _facts(path: Path, file: Any) -> tuple[dict[str, Any], str]:
    try:
        said = json.loads((file.metadata() or {})[_METADATA])
        facts, checksum = said["facts"], said["checksum"]
        known = facts["format"] == FORMAT
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{path} was not written by longtake.") from error
    if not known:
        raise DamagedFile(
            f"{path} is of format {facts['format']}, but this version reads {FORMAT}."
        )
    return facts, checksum


def _text(said: Mapping[str, Any]) -> str:
    return json.dumps(said, sort_keys=True)


def _digest(facts: str, names: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """Return the checksum of everything that a file says."""
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in names:
        value = tensor(name)
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
