"""Settings of a LoRA beside its tensors: alpha and what else peft and diffusers write down."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, final

from longtake.errors import ModelError
from longtake.models.loading.lora.names import FIRST, SECOND

_CHANGES_THE_BASE: Final = ("pissa", "olora", "corda")
"""Initializations that take something away from the weights of the model that is trained."""


@final
class Settings:
    """What a LoRA's header says, or ``adapter_config.json`` beside it where the header is silent.

    Args:
        file: The LoRA.
        header: Of the file.

    Raises:
        ModelError: They cannot be read, or are of another method.
    """

    def __init__(self, file: Path, header: Mapping[str, str]) -> None:
        self._file = file
        self._scopes = _scopes(file, header)
        for settings in self._scopes.values():
            self._check(settings)

    def factor(self, names: Collection[str], expert: str | None, rank: int) -> float:
        """Return a module's ``alpha / r``, or ``alpha / sqrt(r)``; without an alpha it is ``r``.

        Args:
            names: What the module is called, in the file and in the model.
            expert: The transformer that the file names; ``None`` where it names none.
            rank: Of the module, as its tensors have it.
        """
        settings = self._of(expert)
        alpha = self._number(settings.get("lora_alpha", rank), "lora_alpha")
        for pattern, own in (settings.get("alpha_pattern") or {}).items():
            if self._matches(pattern, names):
                alpha = self._number(own, f"alpha_pattern of {pattern}")
                break
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def _of(self, expert: str | None) -> Mapping[str, Any]:
        """Return the settings of a transformer: its own, or those of all."""
        if expert is None and len(self._scopes) == 1:
            return next(iter(self._scopes.values()))
        return self._scopes.get(expert or FIRST) or self._scopes.get("") or {}

    def _matches(self, pattern: str, names: Collection[str]) -> bool:
        try:
            return any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in names)
        except re.error as error:
            raise ModelError(
                f"the alpha_pattern {pattern!r} of the LoRA {self._file} is no pattern: {error}."
            ) from error

    def _number(self, value: Any, name: str) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ModelError(f"the {name} of the LoRA {self._file} is {value!r}, no finite number.")
        return float(value)

    def _check(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings of which the tensors are no LoRA of the published weights."""
        kind, start = settings.get("peft_type", "LORA"), settings.get("init_lora_weights")
        if kind != "LORA":
            raise ModelError(
                f"{self._file} is of the method {kind}; longtake merges LoRA and DoRA."
            )
        if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
            raise ModelError(
                f"the LoRA {self._file} was begun with {start}, which changes the weights that it "
                f"is added to; save it as an ordinary LoRA (peft's save_pretrained with "
                f"path_initial_model_for_weight_conversion)."
            )
        for name in ("alpha_pattern", "rank_pattern"):
            if not isinstance(settings.get(name) or {}, dict):
                raise ModelError(f"the {name} of the LoRA {self._file} is no JSON object.")


def _scopes(file: Path, header: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return settings by the transformer that they name; those of all have an empty name."""
    beside = file.parent / "adapter_config.json"
    try:
        if "lora_adapter_metadata" in header:
            return _by_transformer(dict(json.loads(header["lora_adapter_metadata"])))
        if "lora_alpha" in header:
            return {"": {"lora_alpha": float(header["lora_alpha"])}}
        if beside.is_file():
            return {"": dict(json.loads(beside.read_text(encoding="utf-8")))}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the settings of the LoRA {file} cannot be read: {error}") from error
    return {}


def _by_transformer(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        scope, dot, name = key.partition(".")
        if dot and scope not in (FIRST, SECOND):
            continue  # of a text encoder
        found.setdefault(scope if dot else "", {})[name if dot else key] = value
    return found
