"""Files of a component's weights: which of those in its folder diffusers would load."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

SAFETENSORS: Final = ".safetensors"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that can run any code when they are read."""

_STEMS: Final = {"transformers": "model"}
"""How a library calls a component's weights; diffusers, and what is laid out like it, below."""
_STEM: Final = "diffusion_pytorch_model"
_VARIANT: Final = re.compile(r"[^.]+\.([^.]+?)(?:-\d{5}-of-\d{5})?\.safetensors")
_PLAIN: Final = re.compile(r"[^.]+(?<!-\d{5}-of-\d{5})\.safetensors")


def choose(names: Collection[str], library: str, variant: str | None) -> str | None:
    """Return the file that diffusers would load a component from: an index, or one whole file.

    A component that lacks the variant is loaded from its plain files, as in diffusers.

    Args:
        names: Of the files in the component's folder.
        library: Of the component, as ``model_index.json`` names it.
        variant: ``fp16``, say; ``None`` for the plain files.

    Returns:
        ``None`` where there is none.
    """
    found = _of_variant(names, library, variant) or _of_variant(names, library, None)
    if found is not None or library in _STEMS:
        return found
    # Renamed by hand, but there is only one that can be meant.
    others = [name for name in names if name.endswith(f"{SAFETENSORS}.index.json")]
    others = others or [name for name in names if _PLAIN.fullmatch(name)]
    return others[0] if len(others) == 1 else None


def has_variant(names: Collection[str], library: str, variant: str | None) -> bool:
    """Return whether a component's folder holds ``variant``; never for ``None``."""
    return variant is not None and _of_variant(names, library, variant) is not None


def variants_in(names: Iterable[str]) -> set[str]:
    """Return the variants that some files are of."""
    return {found[1] for name in names if (found := _VARIANT.fullmatch(name))}


def why_none(folder: str, names: Collection[str], variant: str | None) -> str:
    """Return the sentence that says why a folder's weights cannot be loaded.

    Args:
        folder: As it is named to the user.
        names: Of the files in it.
        variant: That was asked for.
    """
    variants = sorted(variants_in(names))
    if variants and (variant is None or variant not in variants):
        other = f" and neither {variant} nor plain ones" if variant else ""
        return (
            f"{folder} holds its weights as {' and '.join(variants)}{other}; choose with "
            f"model.variant: {variants[0]}."
        )
    whole = [name for name in names if name.endswith(SAFETENSORS)]
    if whole:
        return (
            f"{folder} holds {len(whole)} safetensors files but no *.safetensors.index.json "
            f"that says which tensor is where, nor a file by the name that diffusers looks for."
        )
    if quantized := sorted(name for name in names if name.endswith(".gguf")):
        return (
            f"{folder} holds its weights as {quantized[0]}, in quantized blocks (GGUF), which "
            f"longtake does not read; use the folder of the model in float32, bfloat16 or float16."
        )
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return (
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run any code "
            f"when it is read; longtake reads safetensors only. Save the model again with "
            f"save_pretrained(..., safe_serialization=True), or make safetensors of the file with "
            f"longtake convert {folder}/{pickles[0]}."
        )
    return f"{folder} holds no safetensors weights."


def _of_variant(names: Collection[str], library: str, variant: str | None) -> str | None:
    stem, infix = _STEMS.get(library, _STEM), f".{variant}" if variant else ""
    whole = f"{stem}{infix}{SAFETENSORS}"
    index = f"{stem}{SAFETENSORS}.index{infix}.json"
    if library == "transformers":
        order = [whole, index]
    else:  # the last one is diffusers' name of an earlier time
        order = [index, f"{stem}{SAFETENSORS}{infix}.index.json", whole]
    return next((name for name in order if name in names), None)
