"""Weights from safetensors, only those that are needed, key by key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from longtake.errors import ModelError
from longtake.models.folder import ModelFolder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_module(
    folder: ModelFolder,
    component: str,
    module_class: type[ModuleT],
    *,
    device: torch.device,
    dtype: torch.dtype,
    prune: Callable[[ModuleT], None] | None = None,
) -> ModuleT:
    """Build a diffusers model on the meta device and read the tensors that it still needs.

    Args:
        folder: The pipeline folder.
        component: Which component of it.
        module_class: The component's diffusers class.
        device: Where the weights go, without a stop in host memory.
        dtype: Of the weights, save those that the class keeps in fp32
            (``_keep_in_fp32_modules``).
        prune: Takes away the submodules that are not needed here, before anything is read.

    Raises:
        ModelError: A tensor is missing or has another shape; names the key, the file and shapes.
    """
    with torch.device("meta"):
        module = module_class.from_config(folder.config(component))  # type: ignore[attr-defined]
    assert isinstance(module, module_class)
    if prune is not None:
        prune(module)
    fp32 = set(module_class._keep_in_fp32_modules or ())  # type: ignore[attr-defined]
    wanted = module.state_dict()
    state: dict[str, Tensor] = {}
    for file, keys in _keys_by_file(folder, component, list(wanted)).items():
        with safe_open(file, framework="pt", device=str(device)) as reader:
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
                keep = bool(fp32.intersection(key.split(".")))
                state[key] = tensor.to(torch.float32 if keep else dtype)
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
