"""Models on the Hugging Face hub: pinned to a commit, and downloaded in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from longtake.errors import ModelError
from longtake.models.loading.hub_ids import reason_of
from longtake.models.loading.weight_files import SAFETENSORS

_SETTINGS: Final = ["model_index.json", "README.md", "*/*.json", "tokenizer/*", "tokenizer_2/*"]
_WEIGHTS: Final = [f"*/*{SAFETENSORS}"]
_ERRORS: Final = (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSnapshot:
    """A model's files at one commit, of which some are on this machine.

    Args:
        name: Hub id, ``owner/name``.
        commit: Which the revision stood for when it was looked up.
        path: The cache's folder of this commit.
        sizes: Bytes of every safetensors file of the components, by name in the repository; of
            those in the cache alone where the hub cannot be reached.
    """

    name: str
    commit: str
    path: Path
    sizes: Mapping[str, int]

    def names(self, component: str) -> set[str]:
        """Return the names of a component's weight files, here or not."""
        inside = f"{component}/"
        return {name.removeprefix(inside) for name in self.sizes if name.startswith(inside)}

    def missing(self, files: Sequence[str]) -> list[str]:
        """Return those of some files that are not on this machine."""
        return [file for file in files if not (self.path / file).is_file()]

    def fetch(self, files: Sequence[str]) -> None:
        """Download files that are not here.

        Raises:
            ModelError: The hub does not give them.
        """
        _download(self.name, list(files), self.commit)


def is_cached(name: str) -> bool:
    """Return whether a model's settings are in the hub's cache. Asks no other machine.

    Args:
        name: Hub id.
    """
    return isinstance(try_to_load_from_cache(name, "model_index.json"), str)


def find_settings(name: str, revision: str | None) -> Path:
    """Fetch a model's settings and tokenizers, and return the cache's folder of its commit.

    Args:
        name: Hub id.
        revision: Branch, tag or commit; ``None`` for the newest.

    Raises:
        ModelError: The hub does not give them, and neither does its cache.
    """
    return _download(name, _SETTINGS, revision)


def find_snapshot(name: str, path: Path) -> HubSnapshot:
    """Look up which weight files a model has, and how large they are. Downloads nothing.

    Args:
        name: Hub id.
        path: As ``find_settings`` returns it: named by the commit.
    """
    try:
        listed = snapshot_download(name, revision=path.name, allow_patterns=_WEIGHTS, dry_run=True)
        sizes = {file.filename: file.file_size or 0 for file in listed}
        sizes = {name: size for name, size in sizes.items() if name.count("/") == 1}
    except _ERRORS:  # offline: what is in the cache must do
        found = path.glob(f"*/*{SAFETENSORS}")
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in found}
    return HubSnapshot(name=name, commit=path.name, path=path, sizes=sizes)


def _download(name: str, patterns: list[str], revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model.revision is {revision!r}, but {name} has no such branch, tag or commit on the "
            f"hub; left out, it is the newest commit."
        ) from error
    except _ERRORS as error:
        raise ModelError(
            f"model.pipeline is {name!r}, but there is no such local folder and the hub has not "
            f"given it: {reason_of(name, error)}"
        ) from error
