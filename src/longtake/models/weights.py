"""Weights from safetensors, only those that are needed, key by key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from longtake.errors import ModelError
from longtake.models.base import Placement
from longtake.models.folder import ModelFolder
from longtake.models.lora import changes_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_module(
    folder: ModelFolder,
    component: str,
    build: Callable[[dict[str, Any]], ModuleT],
    place: Placement,
    *,
    keep_fp32: Collection[str] = (),
    prune: Callable[[ModuleT], None] | None = None,
) -> ModuleT:
    """Build a model on the meta device and read the tensors that it still needs.

    The folder's LoRAs are merged into them, in fp32, before they are rounded to their dtype.

    Args:
        folder: The pipeline folder.
        component: Which component of it.
        build: Makes the module from its configuration: ``SomeDiffusersModel.from_config``, say.
        place: Where the weights go, without a stop in host memory, and their dtype. On the meta
            device nothing is read, and everything is fp32: for counting operations.
        keep_fp32: Names of submodules and parameters that stay in fp32 (diffusers'
            ``_keep_in_fp32_modules``).
        prune: Takes away the submodules that are not needed here, before anything is read.

    Raises:
        ModelError: A tensor is missing or has another shape; names the key, the file and shapes.
            Or a LoRA does not fit.
    """
    with torch.device("meta"):
        module = build(folder.config(component))
    known = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if prune is not None:
        prune(module)
    if place.device.type == "meta":
        return module.requires_grad_(False).eval()
    fp32 = set(keep_fp32)
    wanted = module.state_dict()
    changes = changes_of(folder.loras, folder.pipeline, component, known, wanted)
    state: dict[str, Tensor] = {}
    for file, keys in _keys_by_file(folder, component, list(wanted)).items():
        with safe_open(file, framework="pt", device=str(place.device)) as reader:
            stored = set(reader.keys())
            for key in keys:
                if key not in stored:
                    raise ModelError(f"{file} lacks the tensor {key} of the {component}.")
                tensor = reader.get_tensor(key)
                if tensor.shape != wanted[key].shape:
                    raise ModelError(
                        f"the tensor {key} in {file} has shape {tuple(tensor.shape)}, but the "
                        f"configuration of the {component} asks for {tuple(wanted[key].shape)}."
                    )
                for change in changes.get(key, ()):
                    tensor = change.added_to(tensor)
                keep = bool(fp32.intersection(key.split(".")))
                state[key] = tensor.to(torch.float32 if keep else place.dtype)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _keys_by_file(folder: ModelFolder, component: str, keys: list[str]) -> dict[Path, list[str]]:
    files = folder.weight_files(component)
    if "" in files:
        return {files[""]: keys}
    by_file: dict[Path, list[str]] = defaultdict(list)
    for key in keys:
        if key not in files:
            raise ModelError(
                f"the weight index in {folder.path / component} lacks the tensor {key}."
            )
        by_file[files[key]].append(key)
    return dict(by_file)
