"""Inputs of a run: its model and requests as they were resolved, with checksums of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from longtake.errors import ConfigurationError
from longtake.framework.engine.frame_rate import written
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_folder import INPUTS, RunFolder
from longtake.models.loading.checksums import check_unchanged
from longtake.paths import expanded

_FORMAT: Final = 3
"""1: noise depended on which request of the run it was. 2: did not say which files the model is."""
_PATHS: Final = ("start", "end")
"""Of a request: files that are compared by their checksums, wherever they are."""


def inputs_of(requests: Iterable[Request], model: ResolvedModel | None = None) -> dict[str, Any]:
    """Return what a run is made from, as JSON can say it.

    Args:
        requests: All of the run.
        model: Of the run; left out: nothing is said of it.
    """
    said: dict[str, Any] = {}
    if model is not None:
        said = {"name": model.folder.name, "files": dict(model.checksums())}
    return {
        "format": _FORMAT,
        "model": said,
        "requests": [_request(request) for request in requests],
    }


def earlier_inputs(folder: RunFolder) -> dict[str, Any]:
    """Return the inputs that a run was begun with.

    Raises:
        ConfigurationError: They cannot be read, or are of another format.
    """
    try:
        before: dict[str, Any] = json.loads((folder.path / INPUTS).read_text(encoding="utf-8"))
        found, _, _ = before["format"], before["requests"], before.setdefault("model", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on: {INPUTS} cannot be read ({error})."
        ) from error
    if found != _FORMAT:
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on: its {INPUTS} is of format {found}, and this "
            f"version of longtake reads {_FORMAT}; go on with the version that began it "
            f"(report.json says which), or begin it anew with another --output."
        )
    return before


def check_inputs(
    folder: RunFolder, inputs: Mapping[str, Any], lengths: Mapping[int, int] | None = None
) -> None:
    """Refuse to go on with a run whose inputs have changed since it was begun.

    Args:
        folder: Of the run.
        inputs: As they are now.
        lengths: Video frames of requests that have been extended, or are to be.

    Raises:
        ConfigurationError: Names the first request, or file of the model, that differs, and how.
    """
    before = earlier_inputs(folder)
    then, now = before["requests"], json.loads(json.dumps(inputs))["requests"]
    for index, frames in (lengths or {}).items():
        then[index]["num_frames"] = frames
    if len(then) != len(now):
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on: it was begun with {len(then)} prompts, and "
            f"now there are {len(now)}."
        )
    for index, (old, new) in enumerate(zip(map(_content, then), map(_content, now), strict=True)):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ConfigurationError(
                    f"the run in {folder.path} cannot go on: {name} of request {index} was "
                    f"{old.get(name)!r} and is {new.get(name)!r} now."
                )
    files, name = before["model"].get("files", {}), inputs["model"].get("name", "")
    check_unchanged(files, inputs["model"].get("files", {}), folder.path, name)


def _content(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is compared of a request: of files their content, wherever they are."""
    said = {name: value for name, value in request.items() if name not in _PATHS}
    keyframes = [{**one, "image": None} for one in said.get("keyframes", ())]
    return {**said, "keyframes": keyframes}


def _request(request: Request) -> dict[str, Any]:
    said = asdict(request)
    del said["origin"], said["growth"]
    said["fps"] = written(request.fps)
    for name in _PATHS:
        if said[name] is not None:
            said[name], said[f"{name}_checksum"] = _file(said[name])
    for keyframe in said["keyframes"]:
        keyframe["image"], keyframe["checksum"] = _file(keyframe["image"])
    return said


def _file(name: str) -> tuple[str, str]:
    """Return the absolute path of a file, or of a folder of files, and its checksum."""
    path = expanded(name).absolute()
    if not path.is_dir():
        return str(path), _checksum(path)
    digest = hashlib.blake2b()
    for inside in sorted(path.iterdir()):
        if not inside.name.startswith("."):
            digest.update(f"{inside.name}\0{_checksum(inside)}\0".encode())
    return str(path), digest.hexdigest()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
