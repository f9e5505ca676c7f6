"""LoRA files: found, checked, and merged into the weights that a rank reads."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import diffusers
from diffusers.loaders.lora_base import LoraBaseMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.errors import ModelError, nearest
from longtake.models.traced import blank, sources

Converter: TypeAlias = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Names of LoRA tensors, as some trainer has them, to those of diffusers."""

_FILES: Final = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""How diffusers and peft call a folder's weights."""
_PART: Final = re.compile(r"(.+)\.lora_(A|B|down|up)(?:\.\w+)?\.(weight|bias)")
_SECOND: Final = "transformer_2"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA that is merged into a transformer's weights.

    Args:
        path: A folder, as diffusers or peft saves it, or a safetensors file.
        scale: What its change of the weights is multiplied by.
        component: Which transformer it is for: ``transformer_2`` is the second expert of Wan 2.2.
            What the file itself names ``transformer_2`` is for that one anyway.
    """

    path: str
    scale: float = 1.0
    component: str = "transformer"

    def find(self) -> Path:
        """Return the file that holds the weights.

        Raises:
            ModelError: There is none.
        """
        path = Path(self.path).expanduser()
        if path.is_file() and path.suffix == ".safetensors":
            return path
        if path.is_file():
            raise ModelError(f"the LoRA {path} is no safetensors file; longtake reads no other.")
        if not path.is_dir():
            raise ModelError(f"model.lora is {self.path!r}, but there is no such folder or file.")
        named = [path / name for name in _FILES if (path / name).is_file()]
        found = named[:1] or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ModelError(
                f"model.lora is {self.path!r}, a folder of {len(found)} safetensors files without "
                f"{' or '.join(_FILES)}; name the file that holds the LoRA."
            )
        return found[0]

    def check(self, components: Collection[str]) -> None:
        """Refuse what is no LoRA. Reads the file's header only.

        Args:
            components: Of the model.

        Raises:
            ModelError: There is no such file, it is no LoRA, or the model has no such transformer.
        """
        file = self.find()
        if self.component not in components:
            raise ModelError(
                f"the LoRA {file} is for the component {self.component!r}, which the model lacks; "
                f"the nearest is {nearest(self.component, components)}."
            )
        try:
            with safe_open(file, framework="pt") as reader:
                keys = list(reader.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is no whole safetensors file: {error}.") from error
        if not any("lora" in key for key in keys):
            raise ModelError(f"{file} holds {len(keys)} tensors, but no LoRA (lora_A, lora_B).")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a LoRA changes about one tensor.

    Args:
        up: ``B (out, r)``, or what is added to a bias ``(out,)``.
        down: ``A (r, in)``; ``None`` for a bias. Both with the kernel's dims where the module is
            a convolution.
        scale: What the product is multiplied by.
    """

    up: Tensor
    down: Tensor | None
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """Return ``weight`` with the change added, in fp32."""
        added = self.up.to(weight.device).float()
        if self.down is not None:
            added = added.flatten(1) @ self.down.to(weight.device).float().flatten(1)
        return weight.float() + self.scale * added.view(weight.shape)


def changes_of(
    loras: Iterable[Lora],
    pipeline: str,
    component: str,
    known: Mapping[str, tuple[int, ...]],
    wanted: Collection[str],
) -> dict[str, list[Change]]:
    """Read what some LoRAs change about the tensors of a component that are ``wanted`` here.

    Headers are read and checked whole, so that every rank refuses the same; of tensors, only
    those that ``wanted`` ones depend on.

    Args:
        loras: In the order in which they are added.
        pipeline: diffusers' pipeline class, which knows other trainers' names.
        component: A transformer, or what no LoRA is for.
        known: Shape of every tensor of the component, on all ranks together.
        wanted: Those of this rank.

    Raises:
        ModelError: A key matches no module, or a tensor does not fit; names key, file and shapes.
    """
    changes: dict[str, list[Change]] = defaultdict(list)
    for lora in loras:
        found = _File(lora, _converter(pipeline)).changes(component, known, wanted)
        for key, change in found.items():
            changes[key].append(change)
    return dict(changes)


def _converter(pipeline: str) -> Converter:
    """Return diffusers' own, or for models that it has none for, one that changes nothing."""
    found = getattr(diffusers, pipeline, None)
    if isinstance(found, type) and issubclass(found, LoraBaseMixin):
        return found.lora_state_dict  # type: ignore[attr-defined, no-any-return]
    return dict


@final
class _File:
    """One LoRA file."""

    def __init__(self, lora: Lora, converter: Converter) -> None:
        self._lora, self._path, self._convert_names = lora, lora.find(), converter

    def changes(
        self, component: str, known: Mapping[str, tuple[int, ...]], wanted: Collection[str]
    ) -> dict[str, Change]:
        with safe_open(self._path, framework="pt") as reader:
            shapes = {key: tuple(reader.get_slice(key).get_shape()) for key in reader.keys()}  # noqa: SIM118
            # Single numbers (alpha) are looked at by converters, so they are always read.
            read = {key: reader.get_tensor(key) for key, size in shapes.items() if _single(size)}
            named = self._modules({key: blank(key, shapes[key]) for key in shapes} | read)
            modules = {name: parts for (of, name), parts in named.items() if of == component}
            for name, parts in modules.items():
                self._check(name, parts, component, known)
            own = {name for name in modules if _weight(name) in wanted}
            if not own:
                return {}
            parts_here = [part for name in own for part in modules[name].values()]
            needed = {key for part in parts_here for key in sources(part)}
            read |= {key: reader.get_tensor(key) for key in needed}
            settings = _settings(self._path, reader.metadata() or {})
        found = self._modules({key: blank(key, shapes[key]) for key in shapes} | read)
        changes: dict[str, Change] = {}
        for name in own:
            parts = found[component, name]
            up, scale = parts["B"], self._lora.scale * _strength(name, parts, settings)
            changes[_weight(name)] = Change(up=up, down=parts["A"], scale=scale)
            if "bias" in parts:
                changes[f"{name}.bias"] = Change(up=parts["bias"], down=None, scale=scale)
        return changes

    def _modules(self, tensors: dict[str, Tensor]) -> dict[tuple[str, str], dict[str, Tensor]]:
        """Return the parts of the LoRA by component and module."""
        try:
            converted = self._convert_names(tensors)
        except Exception as error:  # converters fail in any way on names that they do not know
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(
                f"diffusers cannot read the LoRA {self._path} for this model: {reason}"
            ) from error
        modules: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in converted.items():
            component, module, part = self._part(name)
            modules[component, module][part] = tensor
        return modules

    def _part(self, name: str) -> tuple[str, str, str]:
        """Return which component, module and part of a LoRA a tensor is."""
        component, rest = self._lora.component, name.removeprefix("base_model.model.")
        if rest.startswith(f"{_SECOND}."):
            component, rest = _SECOND, rest.removeprefix(f"{_SECOND}.")
        rest = rest.removeprefix("transformer.")
        if rest.endswith(".alpha"):
            return component, rest.removesuffix(".alpha"), "alpha"
        match = _PART.fullmatch(rest)
        kinds = {"A": "A", "down": "A", "B": "B", "up": "B"}
        if match is None or (match[2], match[3]) == ("A", "bias"):
            raise ModelError(
                f"the tensor {name} in {self._path} is no part of a LoRA that can be merged: "
                f"lora_A, lora_B, alpha."
            )
        return component, match[1], "bias" if match[3] == "bias" else kinds[match[2]]

    def _check(
        self,
        name: str,
        parts: Mapping[str, Tensor],
        component: str,
        known: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Refuse a module that the component lacks, or parts that do not fit it."""
        first = next((key for part in parts.values() for key in sources(part)), name)
        if _weight(name) not in known:
            modules = {key.removesuffix(".weight") for key in known if key.endswith(".weight")}
            raise ModelError(
                f"the key {first} in {self._path} matches no module of the {component}; the "
                f"nearest module is {nearest(name, modules)}."
            )
        if "A" not in parts or "B" not in parts:
            raise ModelError(f"the LoRA {self._path} has {first}, but not both lora_A and lora_B.")
        out, *inputs = known[_weight(name)]
        rank = parts["A"].shape[0]
        kernel = (1,) * (len(inputs) - 1)
        right = {"A": (rank, *inputs), "B": (out, rank, *kernel), "bias": known.get(f"{name}.bias")}
        for part, tensor in parts.items():
            if part != "alpha" and tuple(tensor.shape) != right[part]:
                raise ModelError(
                    f"the tensor {next(iter(sources(tensor)), first)} in {self._path} has shape "
                    f"{tuple(tensor.shape)}, but {name} of the {component} asks for {right[part]}."
                )


def _single(shape: Sequence[int]) -> bool:
    return math.prod(shape) == 1


def _weight(module: str) -> str:
    return f"{module}.weight"


def _settings(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """Return what peft writes beside the weights, or diffusers into their header.

    Raises:
        ModelError: It cannot be read.
    """
    beside = file.parent / "adapter_config.json"
    text = header.get("lora_adapter_metadata", "{}")
    try:
        if beside.is_file():
            return dict(json.loads(beside.read_text(encoding="utf-8")))
        found = {key.removeprefix("transformer."): value for key, value in json.loads(text).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"the settings of the LoRA {file} cannot be read: {error}") from error
    return found


def _strength(module: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> float:
    """Return ``alpha / r``; without an alpha it is ``r``."""
    rank = parts["A"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"]) / rank
    alpha = settings.get("lora_alpha", rank)
    for name, own in (settings.get("alpha_pattern") or {}).items():
        if f".{module}".endswith(f".{name.removeprefix('^')}"):
            alpha = own
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
