"""Conversion of a PyTorch checkpoint (a pickle) to safetensors, its tensors alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from longtake.errors import ModelError, OutputError, nearest
from longtake.models.loading.weight_files import PICKLES, SAFETENSORS
from longtake.paths import expanded

_CODE: Final = re.compile(r"GLOBAL (\S+)")
"""What torch says of a class or a function that a file asks for."""
_DEPTH: Final = 3
"""How many dictionaries a trainer puts around a state dict, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion has found and written.

    Args:
        output: The safetensors file.
        key: Which entry of the checkpoint it is; "" for the checkpoint itself.
        left: Further entries, which are not in the file.
        tensors: How many it holds.
        size: Of them in bytes.
    """

    output: Path
    key: str
    left: tuple[str, ...]
    tensors: int
    size: int


def convert(file: Path, output: Path | None = None, key: str | None = None) -> Converted:
    """Write the state dict of a checkpoint as a safetensors file, under the names that it has.

    The checkpoint is read with ``weights_only`` and mapped into memory, so nothing in it is run
    and large ones need little memory. The file appears under its name only when it is whole.

    Args:
        file: The checkpoint.
        output: The file to write; ``None``: beside the checkpoint, with another ending.
        key: Which entry of the checkpoint; ``None``: the only state dict that it holds.

    Raises:
        ModelError: There is no such file, it holds more than tensors, or no or several state dicts.
        OutputError: ``output`` is there already, or cannot be written.
    """
    file = expanded(file)
    output = file.with_suffix(SAFETENSORS) if output is None else expanded(output)
    if not file.is_file():
        raise ModelError(f"{file} is no file; give a checkpoint ({', '.join(PICKLES)}).")
    if file.suffix == SAFETENSORS:
        raise ModelError(f"{file} is safetensors already; give it as model.weights.")
    if output.suffix != SAFETENSORS:
        raise OutputError(f"--output is {output}, but a safetensors file ends with {SAFETENSORS}.")
    if output.exists():
        raise OutputError(f"{output} is there already; name another file with --output.")
    content = read_checkpoint(file)
    name, state = _chosen(file, content, key)
    write_state(state, output)
    others = () if name == "" else tuple(str(entry) for entry in content if str(entry) != name)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Converted(output=output, key=name, left=others, tensors=len(state), size=size)


def read_checkpoint(file: Path) -> Mapping[Any, Any]:
    """Read a checkpoint, its tensors mapped into memory; nothing in it is run.

    Args:
        file: Of PyTorch.

    Raises:
        ModelError: It is none, or holds more than tensors.
    """
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of the old format (before torch 1.6) cannot be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what is in a file may fail in any way
        code = _CODE.search(str(error))
        if code is not None:
            raise ModelError(
                f"{file} is no checkpoint of tensors alone: it asks for {code[1]}, and longtake "
                f"runs no code from a file."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{file} is no checkpoint of PyTorch's: {reason}") from error
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{file} holds a {type(content).__name__}, but a checkpoint of a model is a state "
            f"dict: tensors by name."
        )
    return content


def _chosen(
    file: Path, content: Mapping[Any, Any], key: str | None
) -> tuple[str, dict[str, Tensor]]:
    """Return the name and the tensors of the state dict to write."""
    if not content:
        raise ModelError(f"{file} is empty.")
    found = dict(state_dicts(content))
    if key is not None:
        if key not in found:
            there = (
                f"the nearest is {nearest(key, found)} (of {_listed(found)})"
                if found.keys() - {""}
                else f"it holds {_listed(content)}"
            )
            raise ModelError(f"{file} has no state dict {key!r}; {there}.")
        return key, found[key]
    if "" in found:
        return "", found[""]
    if len(found) > 1:
        choice = next((name for name in found if "ema" in name), next(iter(found)))
        raise ModelError(
            f"{file} holds {len(found)} state dicts ({_listed(found)}); choose one, such as --key "
            f"{choice}."
        )
    if not found:
        odd = next((name for name, value in content.items() if not isinstance(value, Tensor)), "")
        raise ModelError(
            f"{file} holds no plain state dict, tensors by name: {odd!r} is a "
            f"{type(content.get(odd)).__name__} (it holds {_listed(content)})."
        )
    return next(iter(found.items()))


def state_dicts(
    content: Mapping[Any, Any], path: str = "", depth: int = _DEPTH
) -> list[tuple[str, dict[str, Tensor]]]:
    """Return every dictionary of tensors alone, by its dotted path.

    Args:
        content: Of a checkpoint.
        path: Of ``content`` in it.
        depth: How many dictionaries may still be around one.
    """
    values = list(content.values())
    if values and all(isinstance(value, Tensor) for value in values):
        return [(path, {str(name): value for name, value in content.items()})]
    if depth == 0 or any(isinstance(value, Tensor) and value.dim() > 1 for value in values):
        return []  # weights with something else among them
    found = []
    for name, value in content.items():
        if isinstance(value, Mapping) and not {"state", "param_groups"} <= value.keys():
            found += state_dicts(value, f"{path}.{name}".lstrip("."), depth - 1)
    return found


def write_state(state: Mapping[str, Tensor], output: Path) -> None:
    """Write a safetensors file, which has its name only when it is whole.

    Args:
        state: Tensors by name.
        output: The file.

    Raises:
        OutputError: It cannot be written.
    """
    stored: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        # safetensors has no two names for one memory: tied weights are written twice.
        again = place in stored
        packed = torch.contiguous_format
        tensors[name] = tensor.clone(memory_format=packed) if again else tensor.contiguous()
        stored.add(place)
    partial = output.with_name(f"{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, output)
    except (OSError, SafetensorError, ValueError) as error:
        with suppress(OSError):
            partial.unlink()
        raise OutputError(f"{output} cannot be written: {error}.") from error


def _listed(names: Mapping[Any, Any]) -> str:
    shown = [str(name) for name in names][:8]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
