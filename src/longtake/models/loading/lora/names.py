"""Module names of LoRA files, resolved to those of the model at hand."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

FIRST: Final = "transformer"
SECOND: Final = "transformer_2"
"""The second expert of Wan 2.2."""
_PREFIXES: Final[Mapping[str, str | None]] = {
    "base_model.model.": None,
    "model.diffusion_model.": None,
    "diffusion_model.": None,
    "pipe.dit2.": SECOND,
    "pipe.dit.": None,
    "pipe.": None,
    "dit2.": SECOND,
    "dit.": None,
    "transformer_2.": SECOND,
    "transformer.": FIRST,
    "unet.": None,
    "model.": None,
    "module.": None,
    "_orig_mod.": None,
    "lora_unet_": None,
    "lora_transformer_": None,
    "lycoris_": None,
    "lora_": None,
}
"""What trainers put before a module's name, and which expert it says that the module is of."""

Shape: TypeAlias = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Swapped:
    """A module whose output rows are in two halves, which the original code has the other way.

    Args:
        module: diffusers' name.
    """

    module: str


@final
@dataclass(frozen=True, slots=True)
class Halves:
    """Modules that share output rows in halves: the first half of each, then the second of each.

    Args:
        modules: diffusers' names.
    """

    modules: tuple[str, ...]


RankRole: TypeAlias = str | tuple[str, ...] | Swapped | Halves
"""What diffusers makes of an original module: one, several that share its rows, one swapped,
several in halves; an empty tuple for what it has no use for."""
NameTable: TypeAlias = Sequence[tuple[str, RankRole]]
"""Original names of a family's modules and parameters, with diffusers'; ``*`` is a number.

Only those that differ. A name may stand here twice where folders differ: what exists is taken.
"""


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What a name of a LoRA file stands for.

    Args:
        parts: The model's modules, or a bare parameter, that share its output rows.
        order: Whose rows they are, in the order of the rows: the part, and which of its pieces;
            all pieces of a part are equally long.
    """

    parts: tuple[str, ...]
    order: tuple[tuple[int, int], ...] = ((0, 0),)

    def rows(self, sizes: Sequence[int]) -> list[tuple[tuple[int, int], ...]]:
        """Return which rows each part is made of, in the order in which it has them.

        Args:
            sizes: Rows of each part.
        """
        pieces, start = len(self.order) // len(self.parts), 0
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for part, piece in self.order:
            found[part, piece] = (start, start + sizes[part] // pieces)
            start = found[part, piece][1]
        return [
            tuple(found[part, piece] for piece in range(pieces)) for part in range(len(self.parts))
        ]


@final
class ModelNames:
    """Every name that LoRA files may have for the modules and parameters of a component.

    Args:
        known: Shape of every tensor of the component.
        table: Original names of the model's family.
    """

    def __init__(self, known: Collection[str], table: NameTable) -> None:
        own = {module_of(key) for key in known}
        self._dotted = {name: Target((name,)) for name in own}
        for original, place in table:
            self._dotted.update(_expanded(original, place, own))
        self._superfluous = {original for original, place in table if place == ()}
        self._flat = _flattened(self._dotted.items())

    def __iter__(self) -> Iterator[str]:
        """Return every name with dots, to look for the nearest one."""
        return iter(self._dotted)

    def find(self, name: str) -> Target | None:
        """Return what a name without prefixes stands for; ``None`` for one that is not known.

        Args:
            name: With dots, as in the code, or with underscores in their place.
        """
        return self._dotted.get(name) or self._flat.get(name.lstrip("_"))

    def is_superfluous(self, name: str) -> bool:
        """Return whether a module or parameter is known to the original code alone."""
        return name in self._superfluous and name not in self._dotted


def stripped(name: str) -> Iterator[tuple[str, str | None]]:
    """Return a module's name with ever more of the known prefixes taken away.

    Yields:
        The name, and the expert that its prefixes have named.
    """
    found: list[tuple[str, str | None]] = [(name, None)]
    for rest, expert in found:  # grows
        yield rest, expert
        for prefix, named in _PREFIXES.items():
            if rest.startswith(prefix):
                found.append((rest.removeprefix(prefix), named or expert))


def module_of(key: str) -> str:
    """Return the module of a weight or bias, or the name of a bare parameter."""
    module, _, last = key.rpartition(".")
    return module if module and last in ("weight", "bias") else key


def _expanded(original: str, place: RankRole, own: Collection[str]) -> dict[str, Target]:
    """Return the entries that a line of a name table makes for the modules that there are."""
    parts, order = _laid_out(place)
    if not parts:
        return {}
    pattern = re.compile(re.escape(parts[0]).replace(r"\*", r"(\d+)"))
    found: dict[str, Target] = {}
    for name in own:
        if match := pattern.fullmatch(name):
            filled = tuple(_filled(part, match.groups()) for part in parts)
            if all(part in own for part in filled):
                found[_filled(original, match.groups())] = Target(filled, order)
    return found


def _laid_out(place: RankRole) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return the modules of a line, and the order in which they share rows (``Target``)."""
    match place:
        case str():
            return (place,), ((0, 0),)
        case Swapped(module):
            return (module,), ((0, 1), (0, 0))
        case Halves(modules):
            return modules, tuple((part, half) for half in (0, 1) for part in range(len(modules)))
        case _:
            return place, tuple((part, 0) for part in range(len(place)))


def _filled(pattern: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", number, 1)
    return pattern


def _flattened(entries: Iterable[tuple[str, Target]]) -> dict[str, Target]:
    """Return the entries by names without dots; what would then mean two things is left out."""
    found: dict[str, Target] = {}
    unclear: set[str] = set()
    for name, target in entries:
        flat = name.replace(".", "_")
        if found.setdefault(flat, target) != target:
            unclear.add(flat)
    return {flat: target for flat, target in found.items() if flat not in unclear}
