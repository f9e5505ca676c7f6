"""Prompts to requests: from YAML, the command line, a text file or JSON Lines."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from secrets import randbits
from typing import Any, Final, Literal, final, get_args, get_origin, get_type_hints

import lightning.pytorch as pl
import yaml
from typing_extensions import override

from longtake.errors import ConfigurationError, suggestion
from longtake.framework.arguments import arguments_of
from longtake.framework.engine.request import (
    Keyframe,
    PromptAt,
    Request,
    VideoOptions,
    prompt_schedule,
    settled,
)
from longtake.framework.options import options_of
from longtake.models import Defaults
from longtake.paths import expanded

_VIDEO_OPTIONS = get_type_hints(VideoOptions)
_LINE_KEYS: dict[str, Any] = {
    "prompt": str | list,
    **_VIDEO_OPTIONS,
    "seed": int,  # null is the run's to draw: config.yaml has no place for one of a line
    "keyframes": list | None,
}
"""What a line of a JSONL file may set, and its type."""
_SCHEDULE = re.compile(r"""\s*\[*\s*\{\s*["']?(at|text)["']?\s*:""")
"""How a prompt schedule begins that has been read as a text."""
_SEED_BITS: Final = 32
"""Of a seed that is drawn: short enough to be typed."""
_NO_PROMPT_FILES = {".json", ".csv", ".tsv", ".yaml", ".yml", ".md", ".text"}
"""Endings by which a user means a file, of a kind that prompts are not read from."""


@dataclass(frozen=True, slots=True)
class Requests:
    """A sized iterable of requests, one per batch.

    Not a ``DataLoader``: Lightning would build that anew, with samplers of its own.
    """

    items: tuple[Request, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class PromptOptions(VideoOptions):
    """Options ``data.*``: what to make. Those of a video hold for every prompt.

    Args:
        prompts: One prompt, a list of prompts, or a file: ``.txt`` (a prompt per line, ``#``
            starts a comment) or ``.jsonl`` (per line an object with ``prompt`` and, where it
            differs, any of the other options). A prompt may change along the video: a list of
            ``{at: seconds, text: ...}`` that starts at 0.
    """

    prompts: list[str | list[PromptAt]] | str | None = None


@final
class PromptData(pl.LightningDataModule):
    """What to make: prompts, length, size, seed.

    ``PromptData("a bird", num_frames=81)`` takes the fields of ``PromptOptions``, which are the
    options ``data.*`` of the command line.
    """

    @options_of(PromptOptions)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        options = arguments_of("data", PromptOptions, args, options, own=("prompts",))
        given = PromptOptions(**options)
        # Ranks of one run draw each its own: the output rank's alone makes noise, and is recorded.
        seed = randbits(_SEED_BITS) if given.seed is None else given.seed
        self._given = replace(given, prompts=_listed(given.prompts), seed=seed)
        self._requests: Requests | None = None
        self._made: Requests | None = None
        self.settle(Defaults())

    def settle(self, defaults: Defaults) -> None:
        """Take from the model what the user left out; before ``requests``.

        Args:
            defaults: Of the model; at first, those of a model that says nothing.
        """
        self._defaults = defaults
        self._requests = self._made = None

    @property
    def settled(self) -> dict[str, Any]:
        """What every request has that does not say otherwise itself: option by option."""
        return settled(
            {name: getattr(self._given, name) for name in _VIDEO_OPTIONS}, self._defaults
        )

    def requests(self) -> Requests:
        """Return every request of the run. A file is read once.

        Raises:
            ConfigurationError: The file cannot be read (names the line), or a prompt schedule
                does not start at 0 or run forward.
        """
        if self._requests is None:
            self._requests = Requests(
                tuple(self._request(index, line) for index, line in enumerate(self._lines()))
            )
        return self._requests

    def replace(self, requests: Sequence[Request]) -> None:
        """Have others made in place of the requests: the parts by which videos grow."""
        self._made = Requests(tuple(requests))

    @override
    def predict_dataloader(self) -> Requests:
        return self._made or self.requests()

    def _lines(self) -> list[dict[str, Any]]:
        prompts = self._given.prompts
        if prompts is None:
            return []
        if isinstance(prompts, list):
            for index, prompt in enumerate(prompts):
                _check_text(index, prompt)
            return [{"prompt": prompt} for prompt in prompts]
        file = Path(prompts)
        match file.suffix.lower():
            case ".txt":
                lines = [(number, line.strip()) for number, line in _numbered(file)]
                return _some(
                    file,
                    [
                        {"prompt": line, "origin": f"{file}, line {number}"}
                        for number, line in lines
                        if line and not line.startswith("#")
                    ],
                )
            case ".jsonl":
                return _some(
                    file,
                    [
                        _json_line(file, number, line)
                        for number, line in _numbered(file)
                        if line.strip()
                    ],
                )
            case ending if ending in _NO_PROMPT_FILES and " " not in prompts:
                raise ConfigurationError(
                    f"data.prompts is {prompts}, but prompts are read from .txt (a prompt per "
                    f"line) or .jsonl files."
                )
        if prompts.strip() and (kind := _kind_of(file)) is not None:
            raise ConfigurationError(
                f"data.prompts is {prompts}, and there is a {kind} of that name, but prompts are "
                f"read from .txt (a prompt per line) or .jsonl files; rename it, or write a prompt "
                f'that has its name as a list: ["{prompts}"].'
            )
        _check_text(0, prompts)
        if (read := _read_as(prompts)) is not None:
            raise ConfigurationError(
                f"data.prompts is {prompts}, which reads as {read}; write a prompt of that text "
                f"in quotes, in a list: ['{prompts.strip()}']."
            )
        return [{"prompt": prompts}]

    def _request(self, index: int, line: dict[str, Any]) -> Request:
        settings = {**self.settled, **settled(line, self._defaults)}
        prompt = settings.pop("prompt")
        settings["keyframes"] = tuple(settings["keyframes"] or ())
        if not isinstance(prompt, str):
            return Request(index=index, prompts=tuple(prompt), **settings)
        return Request(index=index, prompts=(PromptAt(text=prompt),), **settings)


def _listed(prompts: Any) -> list[str | list[PromptAt]] | str | None:
    """Return prompts in the form of YAML, in whichever Python has given them.

    Raises:
        ConfigurationError: They are no texts and no schedules.
    """
    match prompts:
        case None:
            return None
        case str() as text:
            return text
        case PathLike():
            return str(Path(prompts))
        case PromptAt():
            return [[prompts]]
        case Iterable() if not isinstance(prompts, Mapping | bytes):
            return [one if isinstance(one, str) else list(prompt_schedule(one)) for one in prompts]
    raise ConfigurationError(
        f"data.prompts is {prompts!r}, of type {type(prompts).__name__}; give a text, a list of "
        f"texts and schedules (lists of PromptAt), or a .txt or .jsonl file."
    )


def _kind_of(path: Path) -> str | None:
    """Return what is there by the name of a prompt; ``None``: nothing."""
    try:
        path = path.expanduser()
        return "folder" if path.is_dir() else "file" if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a prompt may be too long for a name
        return None


def _check_text(index: int, prompt: object) -> None:
    """Refuse a text from YAML or the command line that was meant as something else.

    Lines of a file are texts as they are.
    """
    if not isinstance(prompt, str):
        return
    if _SCHEDULE.match(prompt):
        raise ConfigurationError(
            f"prompt {index} is {prompt!r}, which looks like a prompt schedule; a schedule is a "
            f"list in the list of prompts: [[{{at: 0, text: ...}}, {{at: 30, text: ...}}]]."
        )
    value = _value_of(prompt) if prompt.lstrip().startswith("[") else None
    if isinstance(value, list) and not all(isinstance(one, str) for one in value):
        raise ConfigurationError(
            f"prompt {index} is {prompt}, a list of which not all are texts; put numbers in "
            f'quotes, as in ["a red circle", "1917"].'
        )


def _read_as(text: str) -> str | None:
    """Return what a text is in YAML, where it is another thing than a text; ``None``: it is one."""
    match _value_of(text):
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case _:
            return None


def _value_of(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _some(file: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not lines:
        raise ConfigurationError(
            f"the prompt file {file} has no prompt in it; write one on each line."
        )
    return lines


def _numbered(file: Path) -> list[tuple[int, str]]:
    try:
        text = expanded(file).read_bytes()
    except IsADirectoryError as error:
        raise ConfigurationError(
            f"data.prompts is {file}, a folder; give a file of prompts in it, or several runs."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the prompt file {file} cannot be read: {error.strerror}; a prompt that ends so is "
            f'written in a list: ["{file}"].'
        ) from error
    lines = []
    for number, line in enumerate(text.removeprefix(BOM_UTF8).splitlines(), start=1):
        try:
            lines.append((number, line.decode("utf-8")))
        except UnicodeDecodeError as error:
            is_16 = text.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
            what = "UTF-16; save the file as UTF-8" if is_16 else "not UTF-8 text"
            raise ConfigurationError(f"{file}, line {number}: {what}.") from error
    return lines


def _json_line(file: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{file}, line {number}"
    try:
        settings = json.loads(line, object_pairs_hook=partial(_each_once, where))
        json.dumps(settings, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{where}: half a character (a lone surrogate).") from error
    except ValueError as error:
        raise ConfigurationError(f"{where}: not JSON ({error}).") from error
    except RecursionError as error:
        raise ConfigurationError(f"{where}: not JSON that is read: nested too deeply.") from error
    if not isinstance(settings, dict) or "prompt" not in settings:
        raise ConfigurationError(f'{where}: must be an object with a "prompt".')
    for key, value in settings.items():
        if key not in _LINE_KEYS:
            raise ConfigurationError(
                f"{where}: unknown key {key!r}{suggestion(key, _LINE_KEYS)}; a line has "
                f"{', '.join(_LINE_KEYS)}."
            )
        if not _fits(value, _LINE_KEYS[key]):
            raise ConfigurationError(f"{where}: {key} cannot be {value!r}.")
    if isinstance(settings["prompt"], list):
        settings["prompt"] = [_prompt_at(where, part) for part in settings["prompt"]]
    if settings.get("keyframes"):
        settings["keyframes"] = [_keyframe(where, part) for part in settings["keyframes"]]
    return {**settings, "origin": where}


def _each_once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; refuse one that says a thing twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigurationError(f"{where}: {key} is there twice; leave one of them out.")
        found[key] = value
    return found


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of JSON is of an option's type: a union, literals, or a plain class."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if options := get_args(kind):
        return any(_fits(value, option) for option in options)
    return type(value) is kind  # not isinstance: true is no number


def _prompt_at(where: str, part: object) -> PromptAt:
    match part:
        case {"at": int() | float() as at, "text": str() as text, **rest} if not rest:
            return PromptAt(at=at, text=text)
    raise ConfigurationError(
        f'{where}: {part!r} is no part of a prompt schedule; write {{"at": 30, "text": "..."}}.'
    )


def _keyframe(where: str, part: object) -> Keyframe:
    match part:
        case {"at": int() | float() as at, "image": str() as image, **rest} if not rest:
            return Keyframe(at=at, image=image)
    raise ConfigurationError(
        f'{where}: {part!r} is no keyframe; write {{"at": 12.5, "image": "picture.png"}}.'
    )
