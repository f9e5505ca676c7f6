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
from longtake.models.lora import NameTable, changes_of, merged
from longtake.models.registry import registered

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_module(
    folder: ModelFolder,
    component: str,
    build: Callable[[dict[str, Any]], ModuleT],
    place: Placement,
    *,
    keep_fp32: Collection[str] = (),
    prune: Callable[[ModuleT], None] | None = None,
    lora_names: NameTable | None = None,
) -> ModuleT:
    """Build a model on the meta device and read the tensors that it still needs.

    The folder's LoRAs are merged into them, in fp32, before they are rounded to their dtype.

    Args:
        folder: The pipeline folder.
        component: Which component of it.
        build: Makes the module from its configuration: ``SomeDiffusersModel.from_config``, say.
        place: Where the weights go, without a stop in host memory, and their dtype. On the meta
            device no weight is read, and everything is fp32: for counting operations, and for
            checking LoRAs.
        keep_fp32: Names of submodules and parameters that stay in fp32 (diffusers'
            ``_keep_in_fp32_modules``).
        prune: Takes away the submodules that are not needed here, before anything is read.
        lora_names: What LoRA files call the modules, besides their own names; left out: what the
            family says that is registered for the folder's pipeline.

    Raises:
        ModelError: A tensor is missing or has another shape; names the key, the file and shapes.
            Or a LoRA does not fit.
    """
    with torch.device("meta"):
        module = build(folder.config(component))
    known = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if prune is not None:
        prune(module)
    blank = place.device.type == "meta"
    changes = changes_of(
        folder.loras,
        component,
        folder.components,
        known,
        () if blank else module.state_dict().keys(),
        _lora_names(folder) if lora_names is None else lora_names,
        folder.report,
    )
    if blank:
        return module.requires_grad_(False).eval()
    fp32 = set(keep_fp32)
    wanted = module.state_dict()
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
                if key in changes:
                    tensor = merged(key, tensor, changes[key])
                keep = bool(fp32.intersection(key.split(".")))
                state[key] = tensor.to(torch.float32 if keep else place.dtype)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _lora_names(folder: ModelFolder) -> NameTable:
    family = registered().get(folder.pipeline)
    return () if family is None else family.lora_names


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
