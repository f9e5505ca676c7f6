"""Inputs of a run: its requests as they were resolved, and the files they read, with checksums."""

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
from longtake.framework.engine.run_folder import INPUTS, RunFolder
from longtake.paths import expanded

_FORMAT: Final = 2
"""1: noise depended on which request of the run it was."""


def inputs_of(requests: Iterable[Request]) -> dict[str, Any]:
    """Return what a run is made from, as JSON can say it.

    Args:
        requests: All of the run.
    """
    return {"format": _FORMAT, "requests": [_request(request) for request in requests]}


def earlier_inputs(folder: RunFolder) -> dict[str, Any]:
    """Return the inputs that a run was begun with.

    Raises:
        ConfigurationError: They cannot be read.
    """
    try:
        before: dict[str, Any] = json.loads((folder.path / INPUTS).read_text(encoding="utf-8"))
        before["format"], before["requests"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on: {INPUTS} cannot be read ({error})."
        ) from error
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
        ConfigurationError: Names the first request that differs, and how.
    """
    before = earlier_inputs(folder)
    then, now = before["requests"], json.loads(json.dumps(inputs))["requests"]
    for index, frames in (lengths or {}).items():
        then[index]["num_frames"] = frames
    if before["format"] != _FORMAT or len(then) != len(now):
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on: it was begun with {len(then)} prompts (format "
            f"{before['format']}), and now there are {len(now)} (format {_FORMAT})."
        )
    for index, (old, new) in enumerate(zip(then, now, strict=True)):
        for name in old.keys() | new.keys():
            if old.get(name) != new.get(name):
                raise ConfigurationError(
                    f"the run in {folder.path} cannot go on: {name} of request {index} was "
                    f"{old.get(name)!r} and is {new.get(name)!r} now."
                )


def _request(request: Request) -> dict[str, Any]:
    said = asdict(request)
    del said["origin"], said["growth"]
    said["fps"] = written(request.fps)
    for name in ("start", "end"):
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
