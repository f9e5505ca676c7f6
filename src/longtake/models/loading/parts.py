"""Parts of a model that a rank needs: the others are taken out before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import nn

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.weights import load_module

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def keep_layers(
    transformer: nn.Module,
    layers: Collection[int],
    *,
    lists: Sequence[str] = ("transformer_blocks",),
    first: Sequence[str] = (),
    last: Sequence[str] = (),
) -> None:
    """Take out the layers that are not kept, and what belongs to the first or the last alone.

    Args:
        transformer: The module.
        layers: Those that are kept, counted through all lists.
        lists: Names of the lists of layers.
        first: Names of what only a rank with the first layer needs, ``patch_embed.proj`` say.
        last: Names of what only a rank with the last layer needs.
    """
    places = [
        (blocks, place)
        for blocks in map(transformer.get_submodule, lists)
        if isinstance(blocks, nn.ModuleList)
        for place in range(len(blocks))
    ]
    for index, (blocks, place) in enumerate(places):
        if index not in layers:
            blocks[place] = nn.Identity()
    unneeded = [*(() if 0 in layers else first), *(() if len(places) - 1 in layers else last)]
    for name in unneeded:
        owner, _, part = name.rpartition(".")
        delattr(transformer.get_submodule(owner), part)


def load_transformer(
    folder: ModelFolder,
    model_class: type[Any],
    place: Placement,
    prune: Callable[[Any], None],
    component: str = "transformer",
) -> Any:
    """Read a transformer of one of diffusers' classes, without what ``prune`` takes out.

    What the class keeps in fp32 stays in fp32.

    Args:
        folder: The pipeline folder.
        model_class: Of the transformer.
        place: Where the weights go, and their dtype.
        prune: As for ``load_module``.
        component: Which transformer it is, where there are several.

    Raises:
        ModelError: As ``load_module``.
    """
    kept = model_class._keep_in_fp32_modules or ()
    build = model_class.from_config
    return load_module(folder, component, build, place, keep_fp32=kept, prune=prune)


def load_vae(
    folder: ModelFolder,
    build: Callable[[dict[str, Any]], ModuleT],
    place: Placement,
    *,
    without: Sequence[str],
) -> ModuleT:
    """Read a VAE without those of its parts that are not needed: ``encoder``, ``quant_conv``.

    Args:
        folder: The pipeline folder.
        build: Makes the VAE from its configuration.
        place: Where the weights go.
        without: Names of the parts.

    Raises:
        ModelError: As ``load_module``.
    """
    prune = partial(_take_out, names=without)
    vae: ModuleT = load_module(folder, "vae", build, place, prune=prune)
    return vae


def _take_out(module: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        setattr(module, name, nn.Identity())
