"""Model folder of diffusers on disk: found, checked and read without loading anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from longtake.errors import ModelError
from longtake.models.loading.hub import HubSnapshot, find_settings, find_snapshot, is_cached
from longtake.models.loading.hub_ids import check_layout
from longtake.models.loading.lora import Lora, LoraFile
from longtake.models.loading.lora.names import FIRST, SECOND
from longtake.models.loading.numbers import refuse_numbers
from longtake.models.loading.redirects import refuse_adapter, refuse_kernels
from longtake.models.loading.single_file import find_weights, refuse_file, refuse_folder
from longtake.models.loading.structures import Structure, structure_of
from longtake.models.loading.weight_files import choose, has_variant, variants_in, why_none
from longtake.paths import expanded

BUNDLED = {"demo": Path(__file__).parents[2] / "assets" / "demo_model"}
"""Models inside the package, by the name that ``model.pipeline`` takes."""

TRANSFORMER = FIRST
"""The component that a file of its own may stand for, or two for the two experts."""
_WEIGHTED = ("text_encoder", "image_encoder", "transformer", "vae")
"""How the names of components with weights begin (``text_encoder_2``)."""
_COMPONENT = re.compile(rf"({'|'.join(_WEIGHTED)}|tokenizer)(_\d+)?|scheduler|guider")
"""The names of all that are read."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A diffusers pipeline folder.

    Args:
        path: Folder with ``model_index.json``.
        index: The content of ``model_index.json``.
        hub: Where the weights may still have to be fetched from; ``None`` for a local folder.
        loras: What is merged into its transformers when they are read.
        report: Called with a sentence about what of a LoRA or of a prompt is skipped.
        merged: Called with a LoRA, a transformer, and how many of its keys change that.
        variant: Which weight files are read where a component has them: ``fp16``, say.
        weights: A file or folder that the transformer is read from, in place of the folder's own.
        weights_2: The same, of the second expert.
        structure: What stands in for files where there is no folder; only to plan with.
    """

    path: Path
    index: dict[str, Any]
    hub: HubSnapshot | None = None
    loras: tuple[Lora, ...] = ()
    report: Callable[[str], None] = lambda _: None
    merged: Callable[[Lora, str, int], None] = lambda *_: None
    variant: str | None = None
    weights: Path | None = None
    weights_2: Path | None = None
    structure: Structure | None = None

    @property
    def hub_id(self) -> str | None:
        """The hub id, ``owner/name``; ``None`` for a local folder."""
        known = self.hub or self.structure
        return None if known is None else known.name

    @property
    def revision(self) -> str | None:
        """The commit of a hub model; ``None`` for a local folder."""
        return None if self.hub is None else self.hub.commit

    @property
    def name(self) -> str:
        """What files call the model: a hub id with its commit, or the last part of the path."""
        if self.hub is None:
            return self.path.name if self.structure else self.path.resolve().name
        return f"{self.hub_id}@{self.revision}"

    @property
    def is_whole(self) -> bool:
        """Whether the weights of all components are on this machine."""
        return all(map(self.holds, self.weighted))

    def to_fetch(self) -> str | None:
        """Return what of a hub model still has to be downloaded, in words; ``None``: nothing."""
        missing = self._missing()
        if self.hub is None or not missing:
            return None
        sizes = self.hub.sizes
        parts = [
            f"{component} {_in_gb(sum(sizes[file] for file in files))}"
            for component, files in groupby(missing, lambda file: file.split("/")[0])
        ]
        total = _in_gb(sum(sizes[file] for file in missing))
        variant = "" if self.variant is None else f", variant {self.variant}"
        return (
            f"{len(missing)} file{'' if len(missing) == 1 else 's'} of {total} from "
            f"{self.hub.name} at commit {self.hub.commit}{variant}: {', '.join(parts)}"
        )

    def fetch_weights(self, announce: Callable[[str], None] = lambda text: None) -> None:
        """Bring the weights of a hub model to this machine, those that are read and no others.

        Args:
            announce: Gets a sentence that says what is downloaded, and how much, before it is.

        Raises:
            ModelError: The hub does not give them.
        """
        text, missing = self.to_fetch(), self._missing()
        if self.hub is not None and text is not None:
            announce(f"downloading {text}")
            self.hub.fetch(missing)

    @property
    def pipeline(self) -> str:
        """Name of the diffusers pipeline class."""
        return str(self.index["_class_name"])

    @property
    def components(self) -> list[str]:
        """Names of the components that the pipeline has."""
        return [
            name for name, value in self.index.items() if isinstance(value, list) and any(value)
        ]

    @property
    def weighted(self) -> list[str]:
        """Names of the components that have weights."""
        return [name for name in self.components if name.startswith(_WEIGHTED)]

    def has(self, component: str) -> bool:
        """Return whether the pipeline has ``component`` (``transformer_2``, say)."""
        return bool((self.index.get(component) or [None])[0])

    def class_name(self, component: str) -> str:
        """Return the name of the component's class."""
        if not self.has(component):
            raise ModelError(f"{self.path / 'model_index.json'} names no {component}.")
        return str(self.index[component][1])

    def library(self, component: str) -> str:
        """Return the library that the component's class is from; "" for what the index lacks."""
        return str(self.index[component][0]) if self.has(component) else ""

    def config(self, component: str) -> dict[str, Any]:
        """Return the component's configuration.

        Raises:
            ModelError: It is missing, is none, or asks for more modules than any model has.
        """
        named = component in ("scheduler", "guider")
        name = f"{component}_config.json" if named else "config.json"
        config = self.settings(f"{component}/{name}")
        refuse_numbers(self.path / component / name, config)
        return config

    def settings(self, name: str) -> dict[str, Any]:
        """Return what a configuration file says.

        Args:
            name: Path inside the folder.

        Raises:
            ModelError: It is missing, or is none.
        """
        if self.structure is None:
            return _read_json(self.path / name)
        if name not in self.structure.files:
            raise ModelError(f"the structure of {self.structure.name} in the package lacks {name}.")
        return dict(self.structure.files[name])

    def weight_files(self, component: str) -> dict[str, Path]:
        """Return which file holds each tensor of ``component``; an unsharded one has key ``""``.

        Of several variants those files that diffusers would load.

        Raises:
            ModelError: There are no safetensors weights, or a file is missing.
        """
        chosen, files = self._chosen(component)
        for file in sorted(set(files.values())):
            if not file.is_file():
                raise ModelError(
                    f"{file.parent / chosen} names the shard {file.name}, which is missing."
                    if "" not in files
                    else f"{file} has not been downloaded."
                )
        return files

    def own_weights(self, component: str) -> Path | None:
        """Return the file or folder that a component is read from, where that is another one."""
        return {TRANSFORMER: self.weights, SECOND: self.weights_2}.get(component)

    def holds(self, component: str) -> bool:
        """Return whether all of a component's weight files are on this machine."""
        try:
            return bool(self.weight_files(component))
        except ModelError:
            return False

    def variant_of(self, component: str) -> str | None:
        """Return the variant that a component is read in: ``None`` where it has plain files."""
        found = has_variant(self._names(component), self.library(component), self.variant)
        return self.variant if found else None

    def check_variant(self) -> None:
        """Refuse a variant that no component has.

        Raises:
            ModelError: Names the variants that there are.
        """
        if self.variant is None or any(map(self.variant_of, self.weighted)):
            return
        found = sorted({name for part in self.weighted for name in variants_in(self._names(part))})
        there = f"there is {', '.join(found)}" if found else "there are plain weights only"
        raise ModelError(
            f"model.variant is {self.variant!r}, but no component of "
            f"{self.hub.name if self.hub else self.path} has such weights; {there}."
        )

    def _missing(self) -> list[str]:
        if self.hub is None:
            return []
        parts = [part for part in self.weighted if self.own_weights(part) is None]
        chosen = {file for part in parts for file in self._chosen(part)[1].values()}
        return self.hub.missing(sorted(file.relative_to(self.path).as_posix() for file in chosen))

    def _chosen(self, component: str) -> tuple[str, dict[str, Path]]:
        """Return the name of an index or of a whole file, and files by tensor, here or not."""
        folder, names = self.path / component, self._names(component)
        own = self.own_weights(component)
        if own is not None:
            if own.is_file():
                return own.name, {"": own}
            folder, names = own, {entry.name for entry in own.iterdir()}
        chosen = choose(names, self.library(component), self.variant)
        if chosen is None:
            raise ModelError(why_none(str(folder), names, self.variant))
        if not chosen.endswith(".json"):
            return chosen, {"": folder / chosen}
        shards = _read_json(folder / chosen).get("weight_map")
        if not isinstance(shards, dict):
            raise ModelError(f"{folder / chosen} has no weight_map.")
        for name in shards.values():
            if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
                raise ModelError(
                    f"{folder / chosen} names the shard {name!r}; shards are files in its folder."
                )
        return chosen, {key: folder / name for key, name in shards.items()}

    def _names(self, component: str) -> set[str]:
        """Return the names of a component's files: also those that are still on the hub."""
        folder = self.path / component
        here = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        return here if self.hub is None else here | self.hub.names(component)


def open_folder(
    name: str,
    loras: Sequence[Lora] = (),
    *,
    variant: str | None = None,
    revision: str | None = None,
    weights: str | None = None,
    weights_2: str | None = None,
) -> ModelFolder:
    """Find a pipeline: a bundled model's name, a local folder or a hub id.

    Of a hub id, only the settings and the tokenizer are fetched; see
    ``ModelFolder.fetch_weights``.

    Args:
        name: Of the pipeline.
        loras: What is to be merged into its transformers.
        variant: Of the weight files; ``None`` for the plain ones.
        revision: Branch, tag or commit of a hub id; ``None`` for the newest.
        weights: Safetensors file that the transformer is read from, or a diffusers folder of one or
            with one; ``None``: the pipeline's own.
        weights_2: The same, of the second expert.

    Raises:
        ModelError: There is no such folder, or it is not a diffusers pipeline; or a LoRA is none;
            or there are no such weights, or they would be for one of two transformers; or it
            would have code run or other models loaded.
    """
    own, other = _own_weights(weights, weights_2)
    local = BUNDLED.get(name) or _local(name)
    if local is not None and revision is not None:
        raise ModelError(
            f"model.revision is {revision!r}, but {local} is a local folder; revisions are those "
            f"of a model on the hub (owner/name)."
        )
    path = local or find_settings(name, revision)
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise refuse_folder(path, str(local or name))
    index = _read_json(index_file)
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{index_file} names no pipeline class (_class_name).")
    _check_components(index_file, index)
    hub = None if local else find_snapshot(name, path)
    folder = ModelFolder(
        path, index, hub, tuple(loras), variant=variant, weights=own, weights_2=other
    )
    folder.check_variant()
    for part in folder.weighted:
        refuse_adapter(path / part)
        if (settings := path / part / "config.json").is_file():
            refuse_kernels(settings, folder.config(part))
    _check_replaced(folder, name, loras)
    return folder


def _check_components(file: Path, index: Mapping[str, Any]) -> None:
    """Refuse components that are not named by a library and a class of it, or by two nulls."""
    for name, value in index.items():
        if value in (None, [None, None]) or not _COMPONENT.fullmatch(name):
            continue
        if not isinstance(value, list) or [type(one) for one in value] != [str, str]:
            raise ModelError(
                f"{file} names {str(value)[:60]} as its {name}, but it is a library and a class "
                f"of it: [diffusers, AutoencoderKLWan], say."
            )


def _check_replaced(folder: ModelFolder, name: str, loras: Sequence[Lora]) -> None:
    """Refuse weights and LoRAs that are not for the folder's transformers."""
    transformers = [part for part in folder.components if part.startswith(TRANSFORMER)]
    _check_own(folder, name, transformers)
    for lora in loras:
        lora.check(transformers)
        LoraFile(lora)  # or a refusal


def open_for_plan(
    name: str,
    loras: Sequence[Lora] = (),
    *,
    variant: str | None = None,
    revision: str | None = None,
    weights: str | None = None,
    weights_2: str | None = None,
) -> ModelFolder:
    """Find a pipeline as ``open_folder`` does, but ask no hub for what the package knows.

    A hub id that is not in the hub's cache is opened by the structure in the package, if there is
    one and no commit is asked for.

    Args:
        name: As for ``open_folder``, and so are the others.
        loras: What would be merged into its transformers.
        variant: Of the weight files.
        revision: Branch, tag or commit of a hub id.
        weights: What the transformer would be read from.
        weights_2: What the second expert would be read from.

    Raises:
        ModelError: As ``open_folder``.
    """
    structure = None if revision or BUNDLED.get(name) or _local(name) else structure_of(name)
    if structure is None or is_cached(name):
        return open_folder(
            name, loras, variant=variant, revision=revision, weights=weights, weights_2=weights_2
        )
    own, other = _own_weights(weights, weights_2)
    folder = ModelFolder(
        Path(name),
        dict(structure.files["model_index.json"]),
        None,
        tuple(loras),
        variant=variant,
        weights=own,
        weights_2=other,
        structure=structure,
    )
    _check_replaced(folder, name, loras)
    return folder


def _own_weights(first: str | None, second: str | None) -> tuple[Path | None, Path | None]:
    """Return the files or folders that the transformers are read from, in place of their own."""
    return (
        None if first is None else find_weights("weights", expanded(first), TRANSFORMER),
        None if second is None else find_weights("weights_2", expanded(second), SECOND),
    )


def _check_own(folder: ModelFolder, name: str, transformers: Sequence[str]) -> None:
    """Refuse weights of too few or too many transformers, and files that are not there."""
    own = {part: folder.own_weights(part) for part in (TRANSFORMER, SECOND)}
    given = {part: path for part, path in own.items() if path is not None}
    if given and len(transformers) > 1 and len(given) == 1:
        [(part, path)] = given.items()
        here, lacking = ("", "_2") if part == TRANSFORMER else ("_2", "")
        raise ModelError(
            f"model.weights{here} is {path}, one transformer, but {name} has {len(transformers)} "
            f"experts; give the other one as model.weights{lacking}."
        )
    if SECOND in given and len(transformers) < 2:
        raise ModelError(
            f"model.weights_2 is {given[SECOND]}, but {name} has no second expert; give its "
            f"transformer as model.weights."
        )
    for part in given:
        folder.weight_files(part)  # or a refusal


def _local(name: str) -> Path | None:
    path = expanded(name)
    if name.strip() and path.is_dir():
        return path
    if path.is_file():
        raise refuse_file(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model.pipeline is {name!r}, but there is no such folder, and it is no hub id "
            f"(owner/name) nor a bundled model ({', '.join(BUNDLED)})."
        )
    check_layout(name)
    return None


def _in_gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _read_json(file: Path) -> dict[str, Any]:
    if file.exists() and not file.is_file():
        raise ModelError(f"{file} is no file.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{file} cannot be read as JSON: it is nested too deeply.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object.")
    return content
