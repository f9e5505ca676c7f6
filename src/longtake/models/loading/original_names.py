"""Original names of a transformer's tensors: those of a file in its authors' own layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from longtake.errors import ModelError

OriginalNames: TypeAlias = Callable[[Collection[str]], Mapping[str, str]]
"""Takes the original names of all tensors, and returns them by the names that diffusers has."""

_MODELS: Final = ("generator_ema", "generator", "critic", "real_score", "fake_score")
"""What trainers call the models that one checkpoint holds."""
_OUTER: Final = (*_MODELS, "model", "module", "diffusion_model", "transformer")
"""Modules around the transformer, which are no part of its names."""
_WRAPPERS: Final = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What training puts around modules anywhere in a name."""


def diffusers_names(file: Path, keys: Iterable[str], names: OriginalNames | None) -> dict[str, str]:
    """Return what a file of a transformer calls its tensors, by diffusers' names for them.

    Names that are diffusers' already stay as they are, but for prefixes.

    Args:
        file: Which file, for refusals.
        keys: Of the file.
        names: Of the transformer's family; ``None``: it knows of none.

    Raises:
        ModelError: The file holds several models.
    """
    plain = _without_prefixes(keys, str(file))
    if names is None:
        return plain
    return {name: plain[key] for name, key in names(plain.keys()).items()}


def _without_prefixes(keys: Iterable[str], file: str) -> dict[str, str]:
    """Return the keys of a file by what is left of them without what training has added."""
    stripped = {key: key for key in keys}
    for wrapper in _WRAPPERS:
        stripped = {name.replace(wrapper, ""): key for name, key in stripped.items()}
    while True:
        roots = {name.partition(".")[0] for name in stripped}
        if several := sorted(roots.intersection(_MODELS)) if len(roots) > 1 else []:
            raise ModelError(
                f"{file} holds more than one model: {', '.join(sorted(roots)[:8])}; give a file of "
                f"one, such as longtake convert --key {several[-1]} makes."
            )
        if len(roots) != 1 or not roots.intersection(_OUTER):
            return stripped
        stripped = {name.partition(".")[2]: key for name, key in stripped.items()}
