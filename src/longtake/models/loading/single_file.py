"""Single files of models: which is read, and what to use instead of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from longtake.errors import ModelError
from longtake.models.loading.weight_files import PICKLES, SAFETENSORS

_INSTEAD: Final = (
    "give the model as a diffusers pipeline folder: a hub id whose files have a model_index.json "
    "(longtake models lists some; often the same name with -Diffusers), or what diffusers makes "
    "of the file with SomePipeline.from_single_file(...).save_pretrained(folder)."
)

_BESIDE: Final = "give that as model.weights, beside its diffusers pipeline in model.pipeline"


def refuse_file(path: Path) -> ModelError:
    """Return the refusal of a file that was given as a pipeline."""
    beside = ""
    if path.name.endswith(SAFETENSORS):
        beside = f" Or, if it holds a transformer alone, {_BESIDE}."
    if path.name.endswith(PICKLES):
        beside = (
            f" Or, if it holds a transformer alone, longtake convert {path} makes safetensors of "
            f"it: {_BESIDE}."
        )
    return ModelError(f"model.pipeline is {path}, {_kind(path.name)}; {_INSTEAD}{beside}")


def find_weights(option: str, path: Path, component: str) -> Path:
    """Return the file or folder that holds a transformer's weights.

    Args:
        option: ``weights`` or ``weights_2``.
        path: As the user gives it: a safetensors file, or a folder of or with a transformer.
        component: What a folder of it is called.

    Raises:
        ModelError: It is neither.
    """
    if path.is_dir():
        inside = path / component
        return inside if inside.is_dir() else path
    if path.is_file() and path.suffix == SAFETENSORS:
        return path
    raise _refuse_weights(f"model.{option}", path)


def _refuse_weights(option: str, path: Path) -> ModelError:
    if path.name.endswith(PICKLES) and path.is_file():
        return ModelError(
            f"{option} is {path}, {_kind(path.name)}; longtake convert {path} makes "
            f"{path.with_suffix(SAFETENSORS).name} of it: give that one."
        )
    if path.is_file():
        return ModelError(f"{option} is {path}, {_kind(path.name)}; give a safetensors file.")
    return ModelError(f"{option} is {path}, but there is no such file or folder.")


def refuse_folder(path: Path, shown: str) -> ModelError:
    """Return the refusal of a folder that has no ``model_index.json``.

    Args:
        path: The folder.
        shown: As it is named to the user.
    """
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    models = [name for name in names if name.endswith((SAFETENSORS, ".gguf", *PICKLES))]
    if "config.json" in names and all(name.endswith(SAFETENSORS) for name in models):
        return ModelError(
            f"{shown} has no model_index.json: it seems to be one component of a model, and "
            f"model.pipeline takes the diffusers pipeline folder around it."
        )
    holds = f" It holds {models[-1]}, {_kind(models[-1])}; {_INSTEAD}" if models else ""
    return ModelError(
        f"{shown} has no model_index.json: model.pipeline takes a diffusers pipeline folder.{holds}"
    )


def _kind(name: str) -> str:
    if name.lower().endswith(".gguf"):
        return "a file of quantized blocks (GGUF), which longtake does not read"
    if name.endswith(PICKLES):
        return "a pickle, which can run any code when it is read, so longtake does not"
    if name.endswith(SAFETENSORS):
        return "a single file, in its trainer's own layout, which says too little about the model"
    return "a file"
