"""Weights from safetensors, only those that are needed, key by key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.headers import check_finite, check_module, read_headers
from longtake.models.loading.lora import NameTable, changes_of, merged
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

    The headers of its files are checked whole, so that every rank refuses the same. The folder's
    LoRAs are merged into the tensors, in fp32, before they are rounded to their dtype.

    Args:
        folder: The pipeline folder.
        component: Which component of it.
        build: Makes the module from its configuration: ``SomeDiffusersModel.from_config``, say.
        place: Where the weights go, without a stop in host memory, and their dtype. On the meta
            device headers are checked, where the files are here, but no tensor is read, and
            everything is fp32: for preflight, and for counting operations.
        keep_fp32: Names of submodules and parameters that stay in fp32 (diffusers'
            ``_keep_in_fp32_modules``).
        prune: Takes away the submodules that are not needed here, before anything is read.
        lora_names: What LoRA files call the modules, besides their own names; left out: what the
            family says that is registered for the folder's pipeline.

    Raises:
        ModelError: A tensor is missing, has another shape, is unknown, is not finite, or is in a
            format that is not read; names the key, the file and shapes. Or a LoRA does not fit.
    """
    with torch.device("meta"):
        module = build(folder.config(component))
    known = module.state_dict()
    if prune is not None:
        prune(module)
    on_meta = place.device.type == "meta"
    shapes = {key: tuple(tensor.shape) for key, tensor in known.items()}
    changes = changes_of(
        folder.loras,
        component,
        folder.components,
        shapes,
        () if on_meta else module.state_dict().keys(),
        _lora_names(folder) if lora_names is None else lora_names,
        folder.report,
    )
    if on_meta and not folder.holds(component):
        return module.requires_grad_(False).eval()
    headers = read_headers(folder, component)
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    check_module(component, headers, known, ignored)
    if on_meta:
        return module.requires_grad_(False).eval()
    wanted = module.state_dict()
    fp32 = set(keep_fp32)
    by_file: dict[Path, list[str]] = defaultdict(list)
    for key in wanted:
        by_file[headers[key].file].append(key)
    state: dict[str, Tensor] = {}
    for file, keys in by_file.items():
        with safe_open(file, framework="pt", device=str(place.device)) as reader:
            for key in keys:
                tensor = reader.get_tensor(headers[key].key)
                check_finite(component, key, tensor, file)
                if key in changes:
                    tensor = merged(key, tensor, changes[key])
                keep = bool(fp32.intersection(key.split(".")))
                state[key] = tensor.to(torch.float32 if keep else place.dtype)
                if state[key].dtype == torch.float16 != tensor.dtype:  # its range is narrow
                    check_finite(component, key, state[key], file)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _lora_names(folder: ModelFolder) -> NameTable:
    family = registered().get(folder.pipeline)
    return () if family is None else family.lora_names
