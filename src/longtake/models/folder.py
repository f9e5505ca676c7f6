"""A diffusers model folder on disk: found, checked and read without loading anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from longtake.errors import ModelError
from longtake.models.hub import check_layout, reason_of
from longtake.models.lora import Lora, LoraFile

BUNDLED = {"demo": Path(__file__).parent.parent / "assets" / "demo_model"}
"""Models inside the package, by the name that ``model.pipeline`` takes."""

_HUB_SETTINGS = ["model_index.json", "README.md", "*/*.json", "tokenizer/*", "tokenizer_2/*"]
_HUB_WEIGHTS = ["*/*.safetensors"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A diffusers pipeline folder.

    Args:
        path: Folder with ``model_index.json``.
        index: The content of ``model_index.json``.
        hub_id: Where the weights still have to be fetched from; ``None`` for a local folder.
        loras: What is merged into its transformers when they are read.
        report: Called with a sentence about what of a LoRA is skipped.
    """

    path: Path
    index: dict[str, Any]
    hub_id: str | None = None
    loras: tuple[Lora, ...] = ()
    report: Callable[[str], None] = lambda _: None

    @property
    def is_local(self) -> bool:
        """Whether the weights are on this machine already, as far as they will be."""
        return self.hub_id is None

    def fetch_weights(self) -> None:
        """Bring the weights of a hub model to this machine, or find them in the hub's cache.

        Raises:
            ModelError: The hub does not give them.
        """
        if self.hub_id is not None:
            _download(self.hub_id, [*_HUB_SETTINGS, *_HUB_WEIGHTS])

    @property
    def pipeline(self) -> str:
        """Name of the diffusers pipeline class."""
        return str(self.index["_class_name"])

    @property
    def components(self) -> list[str]:
        """Names of the components that the pipeline has."""
        return [name for name, value in self.index.items() if isinstance(value, list) and value[0]]

    def has(self, component: str) -> bool:
        """Return whether the pipeline has ``component`` (``transformer_2``, say)."""
        return bool((self.index.get(component) or [None])[0])

    def class_name(self, component: str) -> str:
        """Return the name of the component's class."""
        if not self.has(component):
            raise ModelError(f"{self.path / 'model_index.json'} names no {component}.")
        return str(self.index[component][1])

    def config(self, component: str) -> dict[str, Any]:
        """Return the component's configuration."""
        named = component in ("scheduler", "guider")
        name = f"{component}_config.json" if named else "config.json"
        return _read_json(self.path / component / name)

    def weight_files(self, component: str) -> dict[str, Path]:
        """Return which file holds each tensor of ``component``; an unsharded one has key ``""``.

        Raises:
            ModelError: There are no safetensors weights, or a shard is missing.
        """
        folder = self.path / component
        # Variants (model.fp16.safetensors) stand beside the plain file, whose name is shorter.
        indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda file: len(file.name))
        if indices:
            shards = _read_json(indices[0])["weight_map"]
            files = {key: folder / Path(name).name for key, name in shards.items()}
            for file in sorted(set(files.values())):
                if not file.is_file():
                    raise ModelError(f"{indices[0]} names the shard {file.name}, which is missing.")
            return files
        whole = sorted(folder.glob("*.safetensors"))
        plain = [file for file in whole if file.name.count(".") == 1]
        if len(whole) == 1 or len(plain) == 1:
            return {"": (plain or whole)[0]}
        if whole:
            raise ModelError(
                f"{folder} holds {len(whole)} safetensors files but no *.safetensors.index.json "
                f"that says which tensor is where."
            )
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{folder} holds its weights as {pickles[0]}, a pickle, which can run any code "
                f"when it is read; longtake reads safetensors only. Save the model again with "
                f"save_pretrained(..., safe_serialization=True)."
            )
        raise ModelError(f"{folder} holds no safetensors weights.")


def open_folder(name: str, loras: Sequence[Lora] = ()) -> ModelFolder:
    """Find a pipeline: a bundled model's name, a local folder or a hub id.

    Of a hub id, only the settings and the tokenizer are fetched; see
    ``ModelFolder.fetch_weights``.

    Args:
        name: Of the pipeline.
        loras: What is to be merged into its transformers.

    Raises:
        ModelError: There is no such folder, or it is not a diffusers pipeline; or a LoRA is none.
    """
    local = BUNDLED.get(name) or _local(name)
    path = local or _download(name, _HUB_SETTINGS)
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise ModelError(
            f"{path} has no model_index.json: model.pipeline takes a diffusers pipeline folder."
        )
    index = _read_json(index_file)
    if "_class_name" not in index:
        raise ModelError(f"{index_file} names no pipeline class (_class_name).")
    folder = ModelFolder(path, index, None if local else name, tuple(loras))
    transformers = [part for part in folder.components if part.startswith("transformer")]
    for lora in loras:
        lora.check(transformers)
        LoraFile(lora)  # or a refusal
    return folder


def _local(name: str) -> Path | None:
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model.pipeline is {name!r}, but there is no such folder, and it is no hub id "
            f"(owner/name) nor a bundled model ({', '.join(BUNDLED)})."
        )
    check_layout(name)
    return None


def _download(name: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"model.pipeline is {name!r}, but there is no such local folder and the hub has not "
            f"given it: {reason_of(name, error)}"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object.")
    return content
