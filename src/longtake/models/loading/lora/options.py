"""LoRA options: which file, how strong, for which transformer."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from longtake.errors import ConfigurationError, ModelError, nearest
from longtake.models.loading.lora.names import FIRST, SECOND
from longtake.models.loading.weight_files import PICKLES
from longtake.paths import expanded

_FILES: Final = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""How diffusers and peft call a folder's weights."""
ALL: Final = "all"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA that is merged into a transformer's weights.

    Args:
        path: A folder, as diffusers or peft saves it, or a safetensors file.
        scale: What its change of the weights is multiplied by, besides the file's own alpha.
        component: Which transformer it is for: ``transformer_2`` is the second expert of Wan 2.2,
            ``all`` is both. A file that itself names both experts goes where it says.
        scale_2: Of the change of ``transformer_2``; left out: the same scale.
        missing: What becomes of modules that the model lacks: ``refuse``, or ``skip`` with a
            warning that names them.
    """

    path: str
    scale: float = 1.0
    component: str = FIRST
    scale_2: float | None = None
    missing: Literal["refuse", "skip"] = "refuse"

    def find(self) -> Path:
        """Return the file that holds the weights.

        Raises:
            ModelError: There is none.
        """
        path = expanded(self.path)
        if path.is_file() and path.suffix == ".safetensors":
            return path
        if path.is_file():
            made = f": longtake convert {path} makes one" if path.suffix in PICKLES else ""
            raise ModelError(
                f"the LoRA {path} is no safetensors file; longtake reads no other{made}."
            )
        if not path.is_dir():
            options = "; its options are path, scale, component, scale_2 and missing"
            hint = options if self.path.lstrip().startswith(("{", "[")) else ""
            raise ModelError(
                f"model.lora is {self.path!r}, but there is no such folder or file{hint}."
            )
        named = [path / name for name in _FILES if (path / name).is_file()]
        found = named[:1] or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ModelError(
                f"model.lora is {self.path!r}, a folder of {len(found)} safetensors files without "
                f"{' or '.join(_FILES)}; name the file that holds the LoRA."
            )
        return found[0]

    def strength(self, component: str) -> float:
        """Return what the change of a transformer is multiplied by."""
        if component == SECOND and self.scale_2 is not None:
            return self.scale_2
        return self.scale

    def check(self, transformers: Collection[str]) -> None:
        """Refuse options that no file can mend.

        Args:
            transformers: Of the model.

        Raises:
            ConfigurationError: A scale is not finite, or is of a transformer that the model lacks.
            ModelError: There is no such transformer.
        """
        for name, scale in (("scale", self.scale), ("scale_2", self.scale_2)):
            if scale is not None and not math.isfinite(scale):
                raise ConfigurationError(
                    f"the {name} of the LoRA {self.path} is {scale}, but it must be a finite "
                    f"number, such as 1.0."
                )
        if self.component != ALL and self.component not in transformers:
            raise ModelError(
                f"the LoRA {self.path} is for the component {self.component!r}, which the model "
                f"lacks; the nearest is {nearest(self.component, transformers)}."
            )
        if self.scale_2 is not None and SECOND not in transformers:
            raise ConfigurationError(
                f"the LoRA {self.path} has scale_2 {self.scale_2:g}, but the model has one expert; "
                f"leave it out, or set scale."
            )
