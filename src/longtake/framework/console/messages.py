"""Messages of the parser, said so that a user knows what to type instead."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path

from longtake.caches import FeatureCache
from longtake.errors import suggestion
from longtake.guidance import Guidance
from longtake.noise import NoiseInit
from longtake.reuse import LayerReuse
from longtake.schedulers import BlockScheduler
from longtake.strategies import ParallelStrategy

_INTERFACES: dict[str, type] = {
    "model.scheduler": BlockScheduler,
    "model.noise": NoiseInit,
    "model.cache": FeatureCache,
    "model.guidance": Guidance,
    "model.reuse": LayerReuse,
    "trainer.strategy": ParallelStrategy,
}
_FORMS = {
    "data.prompts": "give a prompt, a list of prompts (what reads as a number in quotes), a .txt "
    "or .jsonl file, or a schedule in a list: [[{at: 0, text: ...}, {at: 30, text: ...}]]",
    "data.keyframes": "give a list of moments and pictures: [{at: 12.5, image: picture.png}]",
    "model.lora": "give a folder, a .safetensors file, or a list: [{path: ..., scale: 1.0}]; "
    "further options are component, scale_2 and missing",
    "model.sampler": "give the name of a diffusers scheduler, one with options, {scheduler: NAME, "
    "options: {...}}, or a class of your own, {class_path: package.module.Class}",
    "options": "give names and values, such as {stochastic_sampling: true}",
    "model.timesteps": "give a list of numbers that go down, such as [1000, 750, 500, 250]",
    "trainer.strategy": "give a class before its options, such as --trainer.strategy DualParal",
    "data.num_frames": "give a whole number, null for an endless video, or auto for the model's "
    "own length",
}
_OPTIONAL = re.compile(
    r'Parser key "(?!data\.num_frames)([^"]+)":.*Union subtypes Subtypes: '
    r"\[(<class '\w+'>|typing\.Literal\[[^\]]*\]), <class 'NoneType'>\].*Given value: (.*)$"
)
"""What is said of a value that is neither of one type nor left out."""


def explain(message: str, options: Collection[str]) -> str:
    """Turn a parser's message into one sentence that names the nearest valid choice.

    Args:
        message: From jsonargparse, of one or more lines.
        options: Every option of the command, such as ``model.steps``.
    """
    line = one_line(message)
    if found := re.search(r"Importing '([^']+)' is not allowed, denied by the '([^']+)'", line):
        return _denied(found[1], everything=found[2] == "*")
    if found := re.search(r"unrecognized arguments: (--[^\s=]+)", line):
        return _unknown_option(found[1].removeprefix("--"), options)
    if found := re.search(r"unrecognized arguments: (\S+)", line):
        return (
            f"{found[1]} is no option: options begin with --, and a value that has spaces stands "
            f"in quotes; a prompt is given with --data.prompts."
        )
    if found := re.search(r"argument (?:\S+/)?(--\S+): expected one argument", line):
        return f"{found[1]} is given without a value; write {found[1]} VALUE."
    if found := re.search(r"Path is not a file: '([^']+)'", line):
        return f"--config is {found[1]}, a folder; give a YAML file{_inside(found[1])}."
    if found := re.search(r"arguments are required: (?:predict\.|plan\.)?(\S+)", line):
        if found[1] in ("at", "image", "text"):
            return (
                f"a part of data.{'prompts' if found[1] == 'text' else 'keyframes'} has no "
                f"{found[1]}; {_FORMS['data.prompts' if found[1] == 'text' else 'data.keyframes']}."
            )
        if found[1] == "convert.file":
            return "the checkpoint is missing: longtake convert FILE."
        return f"{found[1]} is missing: give it in the YAML file or as --{found[1]}."
    if found := re.search(r"does not accept option '([^']+)'", line):
        return _unknown_option(found[1], options)
    if found := re.search(r"Option '([^']+)' is not accepted", line):
        return _unknown_argument(found[1])
    if found := re.search(r'Parser key "([^"]+)":.*dot import path string: (\S+)', line):
        return _unknown_class(found[1], found[2])
    if found := re.search(r'Parser key "([^"]+)":\s*Expected a (.*)\. Got value: (.*)$', line):
        return f"{found[1]} is {found[3]}, but it must be {_type(found[2])}."
    if found := re.search(_OPTIONAL, line):
        return f"{found[1]} is {found[3]}, but it must be {_type(found[2])}, or null."
    if found := re.search(
        r'Parser key "([^"]+)":.*Does not validate against any of the Union', line
    ):
        return f"{found[1]} cannot be that; {_FORMS.get(found[1], 'see --help')}."
    return re.sub(r'Parser key "([^"]+)":\s*', r"\1: ", line)


def _inside(folder: str) -> str:
    config = Path(folder) / "config.yaml"
    return f", {config} for example" if config.is_file() else ""


def _denied(path: str, *, everything: bool) -> str:
    if everything:
        return (
            f"{path} is not longtake's own, and --plugins none resolves no other names; leave it "
            f"out where you trust that module."
        )
    return f"{path} cannot be named in a config: it is no class that one of its options takes."


def one_line(message: str) -> str:
    """Join a message's lines to one."""
    return " ".join(part.strip() for part in message.splitlines() if part.strip())


def _unknown_option(name: str, options: Collection[str]) -> str:
    ends = {option.rpartition(".")[2]: option for option in reversed(list(options))}
    if name in ends:  # as other programs call it
        return f"there is no option {name}; the nearest is {ends[name]}."
    others = [option for option in options if not name.startswith(f"{option}.")]
    hint = suggestion(name, others) or "; --help of the command lists all"
    return f"there is no option {name}{hint}."


def _unknown_argument(name: str) -> str:
    choices = [choice for interface in _INTERFACES.values() for choice in _choices(interface)]
    known = {other for choice in choices for other in inspect.signature(choice).parameters}
    close = difflib.get_close_matches(name, known - {name}, n=1, cutoff=0.6)
    hint = (
        f"; did you mean {close[0]}?" if close else "; --help of the command lists what it takes."
    )
    return f"the chosen class has no option {name}{hint}"


def _unknown_class(key: str, name: str) -> str:
    interface = _INTERFACES.get(key)
    if interface is None and key in _FORMS:
        return f"{key} cannot be that; {_FORMS[key]}."
    if interface is None:
        return f"{key} is {name}, which is no class that can be imported."
    known = [choice.__name__ for choice in _choices(interface)]
    return (
        f"{key} is {name}, which is no {interface.__name__}{suggestion(name, known)} "
        f"(of {', '.join(known)}; your own as package.module.Class)."
    )


def _choices(interface: type) -> list[type]:
    """Return every class that can be chosen: those between are abstract, and have their own."""
    found: list[type] = []
    subclasses: list[type] = type.__subclasses__(interface)
    for subclass in subclasses:
        found += _choices(subclass) if inspect.isabstract(subclass) else [subclass]
    return found


def _type(text: str) -> str:
    if found := re.search(r"typing\.Literal\[(.*)\]", text):
        return "one of " + found[1].replace("'", "")
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    found = re.search(r"<class '(?:builtins\.)?(\w+)'>", text)
    return names.get(found[1], found[1]) if found else text
