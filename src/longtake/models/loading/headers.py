"""Headers of safetensors files: names, shapes and dtypes, checked before any tensor is read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longtake.errors import ModelError, nearest
from longtake.models.loading.float8 import with_scales
from longtake.models.loading.folder import TRANSFORMER, ModelFolder
from longtake.models.loading.original_names import in_diffusers_names
from longtake.models.loading.stored import FLOAT8, FLOATS, WHOLE, TensorHeader
from longtake.models.registry import registered

_FORMATS: Final = (
    (re.compile(r"(^|\.)scaled_fp8$|\.scale_(weight|input)$"), "scaled float8"),
    (re.compile(r"\.SCB$|\.weight_format$"), "bitsandbytes int8"),
    (re.compile(r"\.(nested_)?(absmax|quant_map)$|\.quant_state\."), "bitsandbytes 4-bit"),
    (re.compile(r"(:|_weight_)(qdata|scale|zero_point)$"), "torchao"),
    (re.compile(r"\.weight\._(data|scale|shift)$"), "quanto"),
    (re.compile(r"\.(wscales|smooth_factor|proj_down)$"), "SVDQuant"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.comfy_quant$"), "scaled in a way of its own"),
    (re.compile(r"\.weight_(scale(_inv|_2)?|packed|zero_point)$|\.input_scale$"), "scaled"),
)
"""Names of tensors that stand beside quantized weights, and what the format is called."""
_NARROW: Final = " as float16, which ends at 65,504; see whether model.dtype bfloat16 can be used"
_QUANTIZED: Final = ("quantization_config", "compression_config")
"""Settings in ``config.json`` of a component whose weights are quantized."""


def read_headers(folder: ModelFolder, component: str) -> dict[str, TensorHeader]:
    """Return what a component's weight files hold, by the name that diffusers has for it.

    Args:
        folder: The pipeline folder, on this machine.
        component: Which component of it.

    Raises:
        ModelError: A file is missing or broken, an index and its files differ, or the weights are
            in a format that longtake does not read.
    """
    indexed: dict[Path, set[str]] = defaultdict(set)
    for key, file in folder.weight_files(component).items():
        indexed[file].add(key)
    found: dict[str, TensorHeader] = {}
    for file, keys in sorted(indexed.items()):
        stored = _headers_of(file)
        for key in sorted(stored) if keys == {""} else sorted(keys):
            if key not in stored:
                raise ModelError(f"{file} lacks the tensor {key} of the {component}.")
            found[key] = stored[key]
        if keys != {""} and (unlisted := sorted(set(stored) - keys - set(found))):
            raise ModelError(
                f"the weight index in {folder.path / component} lacks the tensor {unlisted[0]} "
                f"{stored[unlisted[0]].shape} of {file}."
            )
    if component.startswith(TRANSFORMER):
        found = with_scales(found)
    _check_format(folder, component, found)
    family = registered().get(folder.pipeline)
    if family is None or folder.own_weights(component) is None:
        return found
    return in_diffusers_names(folder, component, found, family.transformer_class, family.lora_names)


def check_module(
    component: str,
    headers: Mapping[str, TensorHeader],
    known: Mapping[str, Tensor],
    ignored: Iterable[str] = (),
) -> None:
    """Refuse weights that are not those of a module: each tensor is there once, none is unknown.

    Args:
        component: How the module is called.
        headers: Of its weight files.
        known: The module's state on the meta device.
        ignored: Patterns of names that the module's class knows to be superfluous.

    Raises:
        ModelError: Names key, file and shapes.
    """
    files = " and ".join(sorted({str(header.file) for header in headers.values()}))
    if headers and known and not headers.keys() & known.keys():
        raise ModelError(
            f"{files} holds no tensor that the {component} has ({next(iter(headers))} instead of "
            f"{next(iter(known))}, say): its names are those of another layout, such as its "
            f"trainer's own; use the model's diffusers folder."
        )
    for key, tensor in known.items():
        shape = tuple(tensor.shape)
        if key not in headers:
            raise missing(component, key, shape, files)
        header = headers[key]
        if header.shape != shape:
            raise misshapen(component, key, header, shape)
        if tensor.is_floating_point() and header.dtype not in FLOATS | FLOAT8:
            raise ModelError(
                f"the tensor {key} {shape} in {header.file} is of dtype {header.dtype}, which is "
                f"none of floating-point numbers ({', '.join(FLOATS)})."
            )
    for key in sorted(headers.keys() - known.keys()):
        if not any(re.search(pattern, key) for pattern in ignored):
            raise unknown(component, key, headers[key], known)


def missing(component: str, key: str, shape: tuple[int, ...], files: str) -> ModelError:
    """Return the refusal of weights that lack a tensor."""
    return ModelError(f"{files} lacks the tensor {key} {shape} of the {component}.")


def misshapen(component: str, key: str, header: TensorHeader, shape: tuple[int, ...]) -> ModelError:
    """Return the refusal of a tensor of another shape."""
    return ModelError(
        f"the tensor {key} in {header.file} has shape {header.shape}, but the configuration of "
        f"the {component} asks for {shape}."
    )


def unknown(component: str, key: str, header: TensorHeader, known: Iterable[str]) -> ModelError:
    """Return the refusal of a tensor that no module asks for."""
    return ModelError(
        f"the tensor {key} {header.shape} in {header.file} belongs to no module of the "
        f"{component}, whose nearest tensor is {nearest(key, known)}; so the weights are of "
        f"another model, or in a format that longtake does not read."
    )


def check_finite(component: str, key: str, tensor: Tensor, place: Path) -> None:
    """Refuse a tensor with a number that is not finite. One pass, no copy.

    Args:
        component: Whose tensor it is.
        key: Its name.
        tensor: As it was read, or as it was converted.
        place: The file that it is from.

    Raises:
        ModelError: Names key, file and shape.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # aminmax carries NaN on, and takes a fiftieth of isfinite's time on the CPU in bfloat16.
    if bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
        return
    narrow = tensor.dtype == torch.float16
    raise ModelError(
        f"the tensor {key} {tuple(tensor.shape)} of the {component} in {place} has numbers that "
        f"are not finite (NaN or infinite){_NARROW if narrow else ''}."
    )


def _headers_of(file: Path) -> dict[str, TensorHeader]:
    try:
        with safe_open(file, framework="pt") as reader:
            slices = {key: reader.get_slice(key) for key in reader.keys()}  # noqa: SIM118
            return {
                key: TensorHeader(file, tuple(part.get_shape()), str(part.get_dtype()), key)
                for key, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        pointer = file.stat().st_size < 1024 and b"git-lfs" in file.read_bytes()
        raise ModelError(
            f"{file} is a Git LFS pointer, not the weights; run git lfs pull there."
            if pointer
            else f"{file} is no whole safetensors file: {error}."
        ) from error


def _check_format(folder: ModelFolder, component: str, headers: Mapping[str, TensorHeader]) -> None:
    """Refuse quantized weights by the name of their format."""
    config = folder.config(component)
    for setting in _QUANTIZED:
        if config.get(setting):
            file = folder.path / component / "config.json"
            raise _quantized(component, _method(config[setting]), f"{setting} in {file}")
    for key, header in headers.items():  # names first: they say more than dtypes
        for pattern, name in _FORMATS:
            if pattern.search(key):
                raise _quantized(component, name, _seen(key, header))
    read = FLOATS | WHOLE | (FLOAT8 if component.startswith(TRANSFORMER) else {})
    for key, header in headers.items():
        if header.dtype not in read:
            raise _quantized(component, _named(header.dtype), _seen(key, header))


def _seen(key: str, header: TensorHeader) -> str:
    return f"the tensor {key} {header.shape} of dtype {header.dtype} in {header.file}"


def _method(settings: Any) -> str:
    """Return how a configuration of transformers or diffusers calls its format."""
    if not isinstance(settings, dict):
        return str(settings)
    bits = next((bits for bits in (4, 8) if settings.get(f"load_in_{bits}bit")), None)
    method = str(settings.get("quant_method") or settings.get("format") or "unnamed")
    return f"{method} {bits}-bit" if bits else method


def _named(dtype: str) -> str:
    return "float8" if dtype.startswith("F8") else f"numbers of dtype {dtype}"


def _quantized(component: str, name: str, seen: str) -> ModelError:
    return ModelError(
        f"the {component} is quantized as {name} ({seen}), which longtake does not read: it would "
        f"take the scaled numbers for weights; use the folder of the model whose weights are "
        f"float32, bfloat16 or float16."
    )
