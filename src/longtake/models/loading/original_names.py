"""Original names of a transformer's tensors: those of a file in its authors' own layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from longtake.errors import ModelError
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.lora import ModelNames, NameTable
from longtake.models.loading.lora.fit import weight_of
from longtake.models.loading.lora.names import Shape, module_of
from longtake.models.loading.stored import TensorHeader

_MODELS: Final = ("generator_ema", "generator", "critic", "real_score", "fake_score")
"""What trainers call the models that one checkpoint holds."""
_OUTER: Final = (*_MODELS, "model", "module", "diffusion_model", "transformer")
"""Modules around the transformer, which are no part of its names."""
_WRAPPERS: Final = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What training puts around modules anywhere in a name."""
_TRANSFORMER: Final = "model.diffusion_model."
"""Before a transformer's names in a file that may hold a VAE and text encoders too."""
_GAIN: Final = ".scale"
"""What some code calls the weight of a norm."""


def in_diffusers_names(
    folder: ModelFolder,
    component: str,
    found: Mapping[str, TensorHeader],
    model: type[Any] | None,
    table: NameTable,
) -> dict[str, TensorHeader]:
    """Return what a file of a transformer holds, by the names that diffusers has for it.

    Names alone are looked at, and shapes: a tensor that diffusers keeps as several (queries, keys
    and values, say) becomes several headers of rows of it, one whose rows are in another order a
    header of two pieces. So each is read from the file by itself, no more of it than is needed, and
    nothing is held twice. diffusers' own converters take a whole model that has been read, and
    some are for one size of a model alone; what they make of it is what tests compare with.

    Args:
        folder: The pipeline folder, which says what the transformer should have.
        component: Which transformer.
        found: Of the files, by their own names. Names that are diffusers' already stay as they
            are, but for prefixes; as do those that nobody knows.
        model: The transformer's class in diffusers; ``None``: names are diffusers' own.
        table: Original names of the family's modules.

    Raises:
        ModelError: The file holds several models, or a tensor has other rows than its parts.
    """
    plain = _without_prefixes(found, str(folder.own_weights(component)))
    if model is None or not table:
        return plain
    with torch.device("meta"):
        state = model.from_config(folder.config(component)).state_dict()
    known = {key: tuple(tensor.shape) for key, tensor in state.items()}
    names = ModelNames(known, table)
    return {
        name: header
        for key, original in plain.items()
        for name, header in _translated(key, original, names, known)
    }


def _translated(
    key: str, original: TensorHeader, names: ModelNames, known: Mapping[str, Shape]
) -> Iterator[tuple[str, TensorHeader]]:
    """Yield what diffusers makes of one tensor of a file."""
    name = key.removesuffix(_GAIN) + ".weight" if key.endswith(_GAIN) else key
    module = module_of(name)
    if names.is_superfluous(module):
        return
    target = names.find(module)
    if key in known or target is None:
        yield key, original
        return
    bias = name != module and name.endswith(".bias")
    parts = [f"{part}.bias" if bias else weight_of(part, known) for part in target.parts]
    if not all(part in known for part in parts):
        yield key, original
    elif len(target.order) == 1:
        yield parts[0], original
    else:
        sizes = [known[part][0] for part in parts]
        if sum(sizes) != original.shape[0]:
            raise ModelError(
                f"the tensor {original.key} {original.shape} in {original.file} has "
                f"{original.shape[0]} rows, but {' and '.join(parts)}, which they are for, have "
                f"{' + '.join(map(str, sizes))}."
            )
        for part, rows, size in zip(parts, target.rows(sizes), sizes, strict=True):
            yield part, replace(original, shape=(size, *original.shape[1:]), rows=rows)


def _without_prefixes(found: Mapping[str, TensorHeader], file: str) -> dict[str, TensorHeader]:
    """Return a file's tensors by what is left of their names without what is around them."""
    inner = {key: header for key, header in found.items() if key.startswith(_TRANSFORMER)}
    stripped = dict(inner or found)
    for wrapper in _WRAPPERS:
        stripped = {name.replace(wrapper, ""): header for name, header in stripped.items()}
    while True:
        roots = {name.partition(".")[0] for name in stripped}
        if several := sorted(roots.intersection(_MODELS)) if len(roots) > 1 else []:
            raise ModelError(
                f"{file} holds more than one model: {', '.join(sorted(roots)[:8])}; give a file of "
                f"one, such as longtake convert --key {several[-1]} makes."
            )
        if len(roots) != 1 or not roots.intersection(_OUTER):
            return stripped
        stripped = {name.partition(".")[2]: header for name, header in stripped.items()}
