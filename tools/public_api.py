"""Writes what ``longtake.api`` is, from its list of names.

``python tools/public_api.py --write`` makes ``src/longtake/api.pyi`` (for type checkers),
``docs/api/signatures.txt`` (the snapshot that a test compares with) and the table of
``docs/api.md``; without ``--write`` it prints the signatures.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import marked_part
from longtake import api

ROOT = Path(__file__).parents[1]
STUB = ROOT / "src" / "longtake" / "api.pyi"
SIGNATURES = ROOT / "docs" / "api" / "signatures.txt"
PAGE = ROOT / "docs" / "api.md"


def stub() -> str:
    """Return the stub: every name with the module that it comes from."""
    homes: dict[str, list[str]] = {}
    for name, module in api.HOMES.items():
        homes.setdefault(module, []).append(name)
    lines = [
        '"""Made by tools/public_api.py."""',
        "",
        *("from collections.abc import Mapping", "from typing import Final", ""),
    ]
    for module in sorted(homes):
        lines.append(f"from {module} import (")
        lines += [f"    {name} as {name}," for name in sorted(homes[module])]
        lines.append(")")
    lines += ["", "GROUPS: Final[Mapping[str, Mapping[str, str]]]"]
    lines += ["HOMES: Final[Mapping[str, str]]", "__all__: list[str]", ""]
    return "\n".join(lines).rstrip() + "\n"


def signatures() -> str:
    """Return the snapshot: a paragraph per name, a line per member."""
    return "\n".join(line for name in sorted(api.HOMES) for line in [*_lines(name), ""])


def changed(before: str, after: str) -> set[str]:
    """Return the names that a snapshot has had and another one lacks, or says otherwise.

    What is new asks nothing of anybody; neither do members that a class has gained, but for
    methods that a subclass has to write.
    """
    old, new = _paragraphs(before), _paragraphs(after)
    found = set()
    for name, lines in old.items():
        now = new.get(name, [])
        gained = [line for line in now if line not in lines]
        if any(line not in now for line in lines) or any("abstract " in line for line in gained):
            found.add(name)
    return found


def table() -> str:
    """Return the names in Markdown, each with the first line of its docstring."""
    return "".join(f"{line}\n" for line in _rows())


def replaced(page: str) -> str:
    """Return the page's text with the table as it is now."""
    return marked_part.replaced(page, "tools/public_api.py", table())


def _paragraphs(snapshot: str) -> dict[str, list[str]]:
    parts = [part.splitlines() for part in snapshot.strip().split("\n\n")]
    return {re.split(r"[ (:]", lines[0].split(" ", 1)[1])[0]: lines for lines in parts if lines}


def _lines(name: str) -> Iterator[str]:
    value = getattr(api, name)
    if inspect.isclass(value):
        yield from _class_lines(name, value)
    elif inspect.isfunction(value):
        yield f"def {name}{_signature(value)}"
    elif isinstance(value, int | str):
        yield f"value {name} = {value!r}"
    else:
        yield f"alias {name}"


def _class_lines(name: str, cls: type[Any]) -> Iterator[str]:
    bases = [base.__name__ for base in cls.__bases__ if base not in (object,)]
    final = "final " if getattr(cls, "__final__", False) else ""
    yield f"class {name}({', '.join(bases)}) {final}".rstrip()
    if issubclass(cls, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in cls)
        return
    if is_dataclass(cls):
        for one in fields(cls):
            optional = one.default is not MISSING or one.default_factory is not MISSING
            yield f"    field {one.name}: {one.type}{' = ...' if optional else ''}"
    elif _is_ours(cls, "__init__") and not getattr(cls, "_is_protocol", False):
        yield f"    def __init__{_signature(cls.__init__)}"
    for member in sorted(dir(cls)):
        private = member.startswith("_") and member != "__call__"
        # A suite's tests are what it refuses: it may learn to refuse more.
        if not private and not member.startswith("test_") and _is_ours(cls, member):
            yield from _member_lines(cls, member)


def _member_lines(cls: type[Any], name: str) -> Iterator[str]:
    member = inspect.getattr_static(cls, name)
    must = "abstract " if getattr(member, "__isabstractmethod__", False) else ""
    if isinstance(member, property):
        yield f"    {must}property {name} -> {_shown(member.fget.__annotations__.get('return'))}"
    elif isinstance(member, classmethod | staticmethod):
        yield f"    {type(member).__name__} {name}{_signature(member.__func__)}"
    elif inspect.isfunction(member):
        yield f"    {must}def {name}{_signature(member)}"
    elif not (is_dataclass(cls) and name in {one.name for one in fields(cls)}):
        yield f"    attribute {name}"


def _is_ours(cls: type[Any], member: str) -> bool:
    """Whether longtake says what a member is, and not a package that a class is built on."""
    owner = next(base for base in cls.__mro__ if member in vars(base))
    return owner.__module__.split(".")[0] == "longtake"


def _signature(function: Any) -> str:
    shown: list[str] = []
    signature = inspect.signature(function)
    starred = False
    for parameter in signature.parameters.values():
        bare = parameter.replace(
            annotation=parameter.empty,
            default=parameter.empty,
        )
        text = str(bare)
        if parameter.annotation is not parameter.empty:
            text += f": {_shown(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += " = ..."
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        shown.append(text)
    told = signature.return_annotation
    return f"({', '.join(shown)})" + ("" if told is signature.empty else f" -> {_shown(told)}")


def _shown(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "None")


def _rows() -> Iterator[str]:
    for group, modules in api.GROUPS.items():
        yield ""
        yield f"### {group}"
        yield ""
        yield "| name | |"
        yield "|---|---|"
        for names in modules.values():
            for name in names.split():
                yield f"| `{name}` | {_summary(name)} |"
    yield ""


def _summary(name: str) -> str:
    value = getattr(api, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return ""
    said = inspect.getdoc(value) or ""
    first = said.split("\n\n", 1)[0].replace("\n", " ").replace("``", "`")
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", first).replace("|", "\\|")


def main() -> None:
    """Print the signatures, or write all three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files")
    if not parser.parse_args().write:
        print(signatures())
        return
    STUB.write_text(stub(), encoding="utf-8")
    SIGNATURES.write_text(signatures(), encoding="utf-8")
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
