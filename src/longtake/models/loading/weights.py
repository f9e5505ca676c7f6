"""Weights from safetensors, only those that are needed, key by key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.headers import check_finite, check_module, read_headers
from longtake.models.loading.lora import NameTable, changes_of, merged
from longtake.models.loading.lora.arithmetic import Change
from longtake.models.loading.offload import LayerStream
from longtake.models.loading.quantize import layer_linears, layers_of, quantized
from longtake.models.loading.redirects import refuse_types
from longtake.models.loading.stored import TensorHeader
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
            device headers are checked, where the files are here, but no tensor is read: for
            preflight, and for counting operations and memory.
        keep_fp32: Names of submodules and parameters that stay in fp32 (diffusers'
            ``_keep_in_fp32_modules``).
        prune: Takes away the submodules that are not needed here, before anything is read.
        lora_names: What LoRA files call the modules, besides their own names; left out: what the
            family says that is registered for the folder's pipeline.

    Raises:
        ModelError: A tensor is missing, has another shape, is unknown, is not finite, or is in a
            format that is not read; names the key, the file and shapes. Or a LoRA does not fit.
    """
    config = folder.config(component)
    with torch.device("meta"):
        module = build(config)
    refuse_types(folder.path / component / "config.json", type(module), config)
    known = module.state_dict()
    if prune is not None:
        prune(module)
    wanted, on_meta = module.state_dict(), place.device.type == "meta"
    changes = changes_of(
        folder.loras,
        component,
        folder.components,
        {key: tuple(tensor.shape) for key, tensor in known.items()},
        () if on_meta else wanted.keys(),
        _lora_names(folder) if lora_names is None else lora_names,
        folder.report,
        folder.merged,
    )
    if not on_meta or folder.holds(component):
        headers = read_headers(folder, component)
        ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
        check_module(component, headers, known, ignored)
        if not on_meta:
            stored = {key: headers[key] for key in wanted}
            _fill(module, component, stored, changes, place, set(keep_fp32))
    if on_meta:
        blank = {key: tensor.to(_dtype(key, place, keep_fp32)) for key, tensor in wanted.items()}
        module.load_state_dict(blank, assign=True)
    return module.requires_grad_(False).eval()


def _fill(
    module: nn.Module,
    component: str,
    stored: Mapping[str, TensorHeader],
    changes: Mapping[str, Sequence[Change]],
    place: Placement,
    fp32: Set[str],
) -> None:
    """Give a module its tensors, where and as the placement says."""
    packed = layer_linears(module, fp32) if place.quantize else set()
    layers = layers_of(module) if place.offload else {}
    waiting = {f"{layer}.{name}" for layer, part in layers.items() for name in part.state_dict()}
    state: dict[str, Tensor] = {}
    for device, keys in (("cpu", waiting), (str(place.device), stored.keys() - waiting)):
        ours = {key: header for key, header in stored.items() if key in keys}
        state |= _read(
            component, ours, changes, replace(place, device=torch.device(device)), fp32, packed
        )
    module.load_state_dict(state, assign=True)
    state.clear()  # layers that are pinned, one by one, need not be there twice
    if layers:
        LayerStream(list(layers.values()), place.device)


def _read(
    component: str,
    stored: Mapping[str, TensorHeader],
    changes: Mapping[str, Sequence[Change]],
    place: Placement,
    fp32: Set[str],
    packed: Set[str],
) -> dict[str, Tensor]:
    """Read tensors, each file once, merge what LoRAs change, and round.

    Args:
        component: For messages.
        stored: Where each tensor that is wanted is.
        changes: What LoRAs add, by tensor.
        place: Where the tensors go, and their dtype.
        fp32: Parts of names that stay in fp32.
        packed: Which of them are quantized.

    Raises:
        ModelError: A tensor is not finite, as it was read or after it was rounded.
    """
    keys_of: dict[Path, list[str]] = defaultdict(list)
    for key, header in stored.items():
        keys_of[header.file].append(key)
    state: dict[str, Tensor] = {}
    for file, keys in keys_of.items():
        # Not to the device by safetensors, which knows only some kinds; it does the same.
        with safe_open(file, framework="pt") as reader:
            for key in keys:
                tensor = stored[key].read(reader).to(place.device)
                check_finite(component, key, tensor, file)
                if key in changes:
                    tensor = merged(key, tensor, changes[key])
                state[key] = tensor.to(_dtype(key, place, fp32))
                if state[key].dtype == torch.float16 != tensor.dtype:  # its range is narrow
                    check_finite(component, key, state[key], file)
                if place.quantize is not None and key in packed:
                    state[key] = quantized(state[key], place.quantize)
    return state


def _dtype(key: str, place: Placement, fp32: Collection[str]) -> torch.dtype:
    """Return the dtype of a tensor: that of the place, but for what stays in fp32."""
    return place.dtype if set(fp32).isdisjoint(key.split(".")) else torch.float32


def _lora_names(folder: ModelFolder) -> NameTable:
    family = registered().get(folder.pipeline)
    return () if family is None else family.lora_names
