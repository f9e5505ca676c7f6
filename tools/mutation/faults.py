"""Faults: small changes of the source, made by cosmic-ray's operators and sampled with a seed."""

from __future__ import annotations

import ast
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

SOURCE: Final = Path("src/longtake")
PACKAGES: Final = ("plan", "schedulers", "caches", "noise", "comm", "strategies")
"""Where faults are set: folders of ``SOURCE``, with all that is below them."""

_ARITHMETIC: Final = "Add|Sub|Mul|Div|FloorDiv|Mod|Pow"
_ORDER: Final = "Eq|NotEq|Lt|LtE|Gt|GtE"
_PLAUSIBLE: Final = re.compile(
    rf"""core/(
        ReplaceBinaryOperator_({_ARITHMETIC})_({_ARITHMETIC})
        | ReplaceComparisonOperator_(({_ORDER})_({_ORDER})|Is_IsNot|IsNot_Is)
        | ReplaceUnaryOperator_(USub_UAdd|Delete_USub|Delete_Not)
        | Replace(True|False|And|Or|Break|Continue)With\w+
        | AddNot | ExceptionReplacer | NumberReplacer | RemoveDecorator | ZeroIterationForLoop
    )""",
    re.VERBOSE,
)
"""Operators whose faults a person might make; ``<<`` for ``+`` would raise an error anywhere."""
_FOR_READERS: Final = {"override", "final", "abstractmethod", "overload"}
"""Decorators that no test can miss."""

_HUGE: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One change of one place.

    Args:
        file: The source, relative to the checkout.
        line: Line of the place, from 1.
        operator: cosmic-ray's name of the change.
        occurrence: Which of the operator's changes of the file.
    """

    file: Path
    line: int
    operator: str
    occurrence: int

    def apply(self, source: str) -> str:
        """Return the source with the fault in it."""
        changed: str | None = mutate_code(source, get_operator(self.operator)(), self.occurrence)
        if changed is None:
            raise ValueError(f"{self.file} has no {self.operator} number {self.occurrence}")
        return changed


def sample(root: Path, count: int, seed: int, packages: Sequence[str] = PACKAGES) -> list[Fault]:
    """Return faults at so many places: places are drawn first, then one change of each.

    So an operator with many changes, such as ``+``, counts no more than one with a single change.

    Args:
        root: Of the checkout.
        count: How many; fewer where there are fewer places.
        seed: The same one gives the same faults of the same source.
        packages: Folders of ``SOURCE``.
    """
    draw = random.Random(seed)
    found: list[Fault] = []
    places = [place for file in sources(root, packages) for place in _places(root, file)]
    for place in draw.sample(places, len(places)):
        if len(found) == count:
            break
        fault = draw.choice(place)
        if _differs(fault, (root / fault.file).read_text()):
            found.append(fault)
    return found


def sources(root: Path, packages: Sequence[str] = PACKAGES) -> list[Path]:
    """Return the files that faults are set into, relative to the checkout."""
    return sorted(
        file.relative_to(root)
        for package in packages
        for file in (root / SOURCE / package).rglob("*.py")
    )


def _places(root: Path, file: Path) -> Iterator[list[Fault]]:
    source = (root / file).read_text()
    nodes, left_out = list(ast_nodes(get_ast(source))), _left_out(source)
    places: dict[tuple[int, int], list[Fault]] = defaultdict(list)
    for name in filter(_PLAUSIBLE.fullmatch, operator_names()):
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                fault = Fault(file=file, line=start[0], operator=name, occurrence=occurrence)
                occurrence += 1
                if _is_one(node) and not any(begin <= start < end for begin, end in left_out):
                    places[start].append(fault)
    yield from (places[start] for start in sorted(places))


def _is_one(node: Any) -> bool:
    """Return whether a change of a node can be a fault."""
    if node.type == "number":  # one more or less of a data sheet's 989e12 is no other figure
        return abs(float(ast.literal_eval(node.value))) < _HUGE
    # A bare star among parameters is no product.
    return not (node.type == "operator" and node.parent.type == "parameters")


def _left_out(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return spans where a change is none: what Python never evaluates, or no run depends on."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(annotation=ast.expr() as annotation):
                spans.append(_span(annotation))
            case ast.AnnAssign(annotation=annotation):
                alias = ast.unparse(annotation) == "TypeAlias"
                spans.append(_span(node if alias else annotation))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                spans.append(_span(node))
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            spans.append(_span(node.returns))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                start, end = _span(decorator)
                at = int(ast.unparse(decorator) in _FOR_READERS)
                spans.append(((start[0], start[1] - at), end))
    return spans


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _differs(fault: Fault, source: str) -> bool:
    """Return whether a fault leaves Python, and another program than the one it is set into."""
    try:
        changed = ast.parse(fault.apply(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))
