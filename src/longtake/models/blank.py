"""Blank model: a model's modules on the meta device, built once to be checked and counted."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, final

import torch
from typing_extensions import override

from longtake.models.base import AnyBackbone, AnyDecoder, Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.registry import ModelFamily, family_of
from longtake.models.spec import BackboneSpec

META: Final = torch.device("meta")
"""A device like any other to the models: they must put everything where their weights are."""


@final
class BlankModel:
    """The modules of a folder's transformer and VAE without their numbers, each built once.

    Two are equal where all that is counted of one holds for the other: the same family, spec and
    dtype, and configuration files that say the same. So what is counted can be remembered by them.

    Args:
        family: Knows the folder.
        folder: The pipeline folder. Weights that are here have their headers compared.
        spec: Of the backbone.
        dtype: Of the backbone's weights in the run.
    """

    def __init__(
        self, family: ModelFamily, folder: ModelFolder, spec: BackboneSpec, dtype: torch.dtype
    ) -> None:
        self.family, self.folder, self.spec, self.dtype = family, folder, spec, dtype

    @classmethod
    def of(cls, folder: ModelFolder, dtype: torch.dtype = torch.float32) -> Self:
        """Return the model of a folder.

        Raises:
            ModelError: As ``family_of``, or its configuration files are none of a model.
        """
        family = family_of(folder)
        return cls(family, folder, family.spec(folder), dtype)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlankModel) and self._key == other._key

    @override
    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return type(self.family), self.spec, self.dtype, _settings(self.folder)

    @cached_property
    def backbone(self) -> AnyBackbone:
        """All layers, with LoRAs compared.

        Raises:
            LongtakeError: As ``load_module``.
        """
        place = Placement(META, self.dtype)
        return self.family.load_backbone(self.folder, self.spec, range(self.spec.layers), place)

    @cached_property
    def decoder(self) -> AnyDecoder:
        """The VAE's decoder, in fp32.

        Raises:
            LongtakeError: As ``load_module``.
        """
        return self.family.load_decoder(self.folder, META)

    def with_dtype(self, dtype: torch.dtype) -> BlankModel:
        """Return the model with a backbone of another dtype."""
        if dtype == self.dtype:
            return self
        return BlankModel(self.family, self.folder, self.spec, dtype)


def _settings(folder: ModelFolder) -> str:
    """Return what the configuration files of a folder say: all that modules are built from."""
    told: dict[str, Any] = {"model_index.json": folder.index}
    if folder.structure is not None:
        return json.dumps({**folder.structure.files, **told}, sort_keys=True)
    for file in sorted([*folder.path.glob("*/*config*.json"), *folder.path.glob("*config*.json")]):
        told[file.relative_to(folder.path).as_posix()] = _text(file)
    return json.dumps(told, sort_keys=True)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # whoever needs it says what is wrong with it
        return ""
