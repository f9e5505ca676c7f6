"""LoRA file: its header, parsed and checked, and its tensors, read when they are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.loading.lora.keys import ADDED, Part, method, split
from longtake.models.loading.lora.names import FIRST, SECOND, ModelNames, Shape, Target, stripped
from longtake.models.loading.lora.options import ALL, Lora
from longtake.models.loading.lora.settings import Settings

_TABLES = (".modulation", "_modulation", ".scale_shift_table", "_scale_shift_table", "")
"""What the name of a table's owner lacks to be the name of the table."""


@final
@dataclass(slots=True, kw_only=True)
class Module:
    """What a LoRA file holds of one module.

    Args:
        name: As far as prefixes are known.
        expert: The transformer that the file names.
        target: What it is in the model; ``None``: nothing.
        keys: In the file, by part.
    """

    name: str
    expert: str | None
    target: Target | None
    keys: dict[Part, str] = field(default_factory=dict[Part, str])


@final
class LoraFile:
    """A LoRA's header.

    Args:
        lora: Names the file.

    Raises:
        ModelError: It is no whole safetensors file, no LoRA, or of a method that is not merged;
            names the key.
    """

    def __init__(self, lora: Lora) -> None:
        self.lora, self.path = lora, lora.find()
        self.shapes: dict[str, Shape] = {}
        try:
            with self.open() as reader:
                for key in reader.keys():  # noqa: SIM118
                    part = reader.get_slice(key)
                    self.shapes[key] = tuple(part.get_shape())
                    self._check_type(key, str(part.get_dtype()))
                self.settings = Settings(self.path, reader.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self.path} is no whole safetensors file: {error}.") from error
        found = {key: (split(key), method(key)) for key in self.shapes}
        if not any(parts or other for parts, other in found.values()):
            raise ModelError(
                f"{self.path} holds {len(found)} tensors, but no LoRA (lora_A, lora_B)."
            )
        self._parts = {key: self._part(key) for key in self.shapes}
        experts = {expert for name, _ in self._parts.values() for _, expert in stripped(name)}
        self._names_both = SECOND in experts

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open the file to read tensors."""
        with safe_open(self.path, framework="pt") as reader:
            yield reader

    def check_values(self) -> None:
        """Refuse numbers that are not finite. Reads the file whole, tensor by tensor.

        Raises:
            ModelError: Names the tensor.
        """
        with self.open() as reader:
            for key in self.shapes:
                self.read(reader, key)

    def read(self, reader: Any, key: str) -> Tensor:
        """Return a tensor, of finite numbers.

        Raises:
            ModelError: It holds others.
        """
        tensor: Tensor = reader.get_tensor(key)
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ModelError(f"the tensor {key} in {self.path} holds numbers that are not finite.")
        return tensor

    def modules(self, names: ModelNames) -> list[Module]:
        """Return what the file holds, by module.

        Args:
            names: Of the component that the modules are looked for in.

        Raises:
            ModelError: Two keys are the same part of a module.
        """
        found: dict[tuple[Any, ...], Module] = {}
        for key, (name, part) in self._parts.items():
            module = _resolved(name, part, names)
            same = found.setdefault((module.expert == SECOND, module.target or module.name), module)
            if same.keys.setdefault(part, key) != key:
                raise ModelError(
                    f"the LoRA {self.path} has both {same.keys[part]} and {key}, which are the "
                    f"same part of one module."
                )
        return list(found.values())

    def homes(self, module: Module) -> Collection[str]:
        """Return the transformers that a module's change is for."""
        if module.expert == SECOND:
            return (SECOND,)
        if self._names_both:
            return (FIRST,)
        return (FIRST, SECOND) if self.lora.component == ALL else (self.lora.component,)

    def changes_nothing(self, module: Module, keys: Mapping[Part, str]) -> bool:
        """Return whether some of a module's tensors are zero where they would be added."""
        if Part.MAGNITUDE in keys:
            return False
        with self.open() as reader:
            added = [self.read(reader, key) for part, key in keys.items() if part in ADDED]
        return bool(added) and not any(bool(tensor.float().any()) for tensor in added)

    def _part(self, key: str) -> tuple[str, Part]:
        found, other = split(key), method(key)
        if other is not None:
            raise ModelError(
                f"the tensor {key} in {self.path} is of {other}, which longtake does not merge; "
                f"it merges LoRA and DoRA."
            )
        if found is None:
            raise ModelError(
                f"the tensor {key} in {self.path} is no part of a LoRA that can be merged: "
                f"{', '.join(Part)}."
            )
        return found

    def _check_type(self, key: str, dtype: str) -> None:
        if not dtype.startswith(("F", "BF")) and not key.endswith(".alpha"):
            raise ModelError(f"the tensor {key} in {self.path} is of type {dtype}, not of floats.")


def _resolved(name: str, part: Part, names: ModelNames) -> Module:
    """Return the module that a name of a LoRA file means, with no keys yet."""
    rest, expert = name, None
    for rest, expert in stripped(name):
        for ending in _TABLES if part is Part.TABLE_DIFF else ("",):
            if target := names.find(f"{rest}{ending}"):
                return Module(name=rest, expert=expert, target=target)
    return Module(name=rest, expert=expert, target=None)
