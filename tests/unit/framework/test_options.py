"""Options of the YAML: each is written in one class, from which everything else takes it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import longtake.framework
from longtake.errors import ConfigurationError
from longtake.framework.callbacks import VideoWriter
from longtake.framework.data import PromptData, PromptOptions
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.preflight import check_modules
from longtake.framework.engine.read_frames import ReadFrames
from longtake.framework.engine.request import Request, VideoOptions
from longtake.framework.engine.verification import Verdict, verify
from longtake.framework.main import main
from longtake.framework.module import VideoModule
from longtake.framework.trainer import InferenceTrainer
from longtake.framework.writers import Mp4Writer, VideoShape, frame_writer
from longtake.framework.writers.fragments import FragmentEncoder

CLASSES: dict[str, tuple[type, ...]] = {
    "model": (GenerationConfig,),
    "data": (PromptOptions, VideoOptions),
    "trainer": (InferenceTrainer,),
    "video": (VideoWriter,),
}
"""The classes that options are written in, by the options' group."""
NOT_OPTIONS: dict[object, str] = {
    Request: "narrows the types of what it inherits: nothing is left to the model any more",
    ReadFrames: "the size that one start's frames are brought to, once it is settled",
    VideoShape: "the shape of a file's frames, whatever was asked for",
    Mp4Writer: "is given them by frame_writer, and says how its format takes them",
    FragmentEncoder: "is given them by Mp4Writer",
    check_modules: "has another meaning of two of the words: what is loaded, not what is asked for",
    Verdict: "what was found, not what is asked for",
    verify: "compares a clip with a pipeline's: nothing of it is left to the model",
    frame_writer: "gets what VideoWriter was given, all of it and no default",
}


def modules() -> Iterator[ModuleType]:
    package = longtake.framework
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def declared(what: object) -> set[str]:
    """Return the names that a class or a function gives types to itself, none inherited."""
    if inspect.isfunction(what):
        return set(inspect.signature(what).parameters)
    if not inspect.isclass(what):
        return set()
    if is_dataclass(what):
        return set(vars(what).get("__annotations__", ()))
    init = vars(what).get("__init__")
    return declared(init) - {"self", "args", "options", "kwargs"}


def callables() -> Iterator[Callable[..., Any]]:
    for module in modules():
        for found in vars(module).values():
            if getattr(found, "__module__", None) == module.__name__ and callable(found):
                yield found


def options(group: str) -> set[str]:
    return set().union(*map(declared, CLASSES[group])) - {"_"}


@pytest.mark.parametrize("group", CLASSES)
def test_no_other_signature_repeats_the_options_of_a_group(group: str) -> None:
    """One name may be shared by chance or handed on alone; two are a twin list."""
    twins = [
        found
        for found in callables()
        if len(declared(found) & options(group)) > 1
        and found not in CLASSES[group]
        and found not in NOT_OPTIONS
    ]
    assert twins == []


def test_no_option_is_declared_twice_in_a_group() -> None:
    for classes in CLASSES.values():
        names = Counter(name for one in classes for name in declared(one))
        assert [name for name, count in names.items() if count > 1] == []
    assert declared(Request) & options("data") < {field.name for field in fields(VideoOptions)} | {
        "prompts"
    }


def test_the_command_line_has_these_options_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (declared(VideoModule), declared(PromptData)) == (set(), set()), "they hand options on"
    with pytest.raises(SystemExit):
        main(["predict", "--print_config"])
    shown = capsys.readouterr().out
    for group in CLASSES:
        _, found, rest = shown.partition(f"{group}:\n")
        assert found
        block = re.match(r"(?:  .*\n)+", rest)
        assert block is not None
        names = set(re.findall(r"^  (\w+):", block[0], re.MULTILINE))
        assert names == options(group), group


def test_a_line_of_a_prompt_file_has_the_options_of_a_video(tmp_path: Path) -> None:
    for name in declared(VideoOptions):
        file = tmp_path / f"{name}.jsonl"
        wrong = "5" if name == "keyframes" else "[]"  # of keyframes there may be none
        file.write_text(f'{{"prompt": "a fox", "{name}": {wrong}}}\n')
        with pytest.raises(ConfigurationError, match=rf"{name} cannot be {re.escape(wrong)}"):
            PromptData(str(file)).requests()
    file.write_text('{"prompt": "a fox", "pipeline": "demo"}\n')
    with pytest.raises(ConfigurationError, match="unknown key 'pipeline'"):
        PromptData(str(file)).requests()


@pytest.mark.parametrize("group", CLASSES)
def test_an_option_is_explained_once(group: str) -> None:
    """In the docstring of the class that it is written in, which ``--help`` shows."""
    explained = Counter(
        name
        for found in (*CLASSES[group], VideoModule, PromptData, Request)
        for name in re.findall(r"^    +(\w+): ", inspect.getdoc(found) or "", re.MULTILINE)
        if name in options(group)
    )
    # A request has prompts of its own, in another form.
    explained["prompts"] -= group == "data"
    assert +explained == dict.fromkeys(options(group), 1)
