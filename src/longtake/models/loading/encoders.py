"""Text and image encoders of transformers: loaded, and refused where a weight is not right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import transformers

from longtake.errors import ModelError
from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.headers import (
    check_finite,
    misshapen,
    missing,
    read_headers,
    unknown,
)
from longtake.models.loading.quantize import quantize_linears
from longtake.models.loading.stored import TensorHeader

_OTHER_PARTS: Final = (
    "decoder.",
    "lm_head.",
    "language_model.lm_head.",
    "visual_projection.",
    "text_projection.",
    "visual.",
)
"""Parts of a whole model beside its encoder, which a folder may hold too: they are not read."""
_ERRORS: Final = (OSError, ValueError, RuntimeError, ImportError, KeyError)


def load_encoder(folder: ModelFolder, component: str, encoder_class: Any, place: Placement) -> Any:
    """Load a text or image encoder, every tensor of which is in its files.

    Args:
        folder: The pipeline folder.
        component: Which encoder.
        encoder_class: Of transformers.
        place: Where its weights go, and their dtype.

    Raises:
        ModelError: It cannot be loaded, or a tensor is missing, misshapen, unknown or not finite;
            names key, file and shapes.
    """
    headers = read_headers(folder, component)
    try:
        encoder, found = encoder_class.from_pretrained(
            folder.path / component,
            dtype=place.dtype,
            use_safetensors=True,
            variant=folder.variant_of(component),
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            local_files_only=True,
        )
    except _ERRORS as error:
        raise _cannot(folder, component, error) from error
    _check(component, encoder, found, headers)
    for key, tensor in encoder.state_dict().items():
        check_finite(component, key, tensor, _file_of(key, headers))
    if place.quantize is not None:
        quantize_linears(encoder, place.quantize)
    return encoder.to(place.device)


def load_image_processor(folder: ModelFolder, component: str, processor_class: Any) -> Any:
    """Load what crops and resizes pictures for an image encoder.

    Args:
        folder: The pipeline folder.
        component: Of the pipeline.
        processor_class: Of transformers.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        return processor_class.from_pretrained(folder.path / component)
    except _ERRORS as error:
        raise _cannot(folder, component, error) from error


def check_encoder(folder: ModelFolder, component: str) -> None:
    """Refuse an encoder whose files lack a tensor, as ``load_encoder`` does, by headers alone.

    Its class is the one that ``model_index.json`` names; where transformers has none by that name
    only its format is checked.

    Args:
        folder: The pipeline folder, on this machine.
        component: Which encoder.

    Raises:
        ModelError: A tensor is missing, misshapen or unknown; names key, file and shapes.
    """
    headers = read_headers(folder, component)
    encoder_class = getattr(transformers, folder.class_name(component), None)
    if folder.library(component) != "transformers" or encoder_class is None:
        return
    blanks = {key: header.blank() for key, header in headers.items()}
    try:
        config = encoder_class.config_class.from_pretrained(folder.path / component)
        encoder, found = encoder_class.from_pretrained(
            None,
            config=config,
            state_dict=blanks,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except _ERRORS as error:
        raise _cannot(folder, component, error) from error
    _check(component, encoder, found, headers)


def _check(
    component: str,
    encoder: Any,
    found: Mapping[str, Any],
    headers: Mapping[str, TensorHeader],
) -> None:
    """Refuse what transformers would fill with random numbers or drop.

    It counts a tensor that is tied to one in the files as there.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()}
    if absent := sorted(found["missing_keys"]):
        files = " and ".join(sorted({str(header.file) for header in headers.values()}))
        twin = dict(encoder._tied_weights_keys or {}).get(absent[0])
        key = absent[0] if twin is None else f"{absent[0]}, or its twin {twin},"
        raise missing(component, key, shapes.get(absent[0], ()), files)
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        header = TensorHeader(_file_of(key, headers), tuple(stored), "", key)
        raise misshapen(component, key, header, tuple(wanted))
    for key in sorted(found["unexpected_keys"]):
        if not key.startswith(_OTHER_PARTS):
            raise unknown(component, key, headers[_stored(key, headers)], shapes)


def _file_of(key: str, headers: Mapping[str, TensorHeader]) -> Path:
    """Return a tensor's file, or the folder where its name or that of its twin has changed."""
    if key in headers:
        return headers[key].file
    stored = _stored(key, headers)
    return headers[stored].file if stored in headers else next(iter(headers.values())).file.parent


def _stored(key: str, headers: Iterable[str]) -> str:
    """Return a tensor's name in its file: transformers adds and removes prefixes."""
    tails = [name for name in headers if name.endswith(f".{key}") or key.endswith(f".{name}")]
    return key if key in headers or not tails else tails[0]


def _cannot(folder: ModelFolder, component: str, error: Exception) -> ModelError:
    return ModelError(f"the {component} in {folder.path} cannot be loaded: {error}")
