"""Prints docs/methods.md's tables: the methods' costs, and which cache fits which scheduler.

``python tools/method_table.py`` prints them; ``--write`` puts them into the page, each between the
two comments that name this file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import marked_part
from longtake.framework.console.methods_report import Method, made, methods
from longtake.plan.cost.methods import method_cost
from longtake.testing.pairs import CACHES, SCHEDULERS, STEPS, pair, refusal

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
_COSTS, _PAIRS = "methods", "pairs"


def costs() -> str:
    """Return the table of methods in Markdown, and the settings of each."""
    listed = [method for method in methods() if method.card is not None]
    lines = [
        "",
        "| method | scheduler, cache, noise | models | passes per frame | each sees | first frames "
        "| K/V held | memory | several devices |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(method) for method in listed),
        "",
        "Settings (`model:` of the YAML):",
        "",
        *(line for method in listed for line in _settings(method)),
    ][:-1]
    return "".join(f"{line}\n" for line in lines)


def pairs() -> str:
    """Return the table of schedulers and caches in Markdown, and why some are refused."""
    reasons: dict[str, int] = {}
    rows = [
        f"| `{scheduler}` | {' | '.join(_cell(scheduler, cache, reasons) for cache in CACHES)} |"
        for scheduler in SCHEDULERS
    ]
    lines = [
        "",
        f"| scheduler | {' | '.join(f'`{cache}`' for cache in CACHES)} |",
        f"|---|{'---|' * len(CACHES)}",
        *rows,
        "",
        *(f"{number}. {reason}" for reason, number in reasons.items()),
        "",
    ]
    return "".join(f"{line}\n" for line in lines)


def replaced(page: str) -> str:
    """Return the page's text with the tables as they are now."""
    for name, table in ((_COSTS, costs()), (_PAIRS, pairs())):
        page = marked_part.replaced(page, f"tools/method_table.py, {name}", table)
    return page


def comment(name: str, place: str) -> str:
    """Return the line before a table, or after it."""
    return f"<!-- tools/method_table.py, {name}: {place} -->\n"


def _row(method: Method) -> str:
    card, cost = method.card, method.cost
    assert card is not None
    assert cost is not None
    paper = f" ({card.paper})" if card.paper else ""
    memory = "flat" if cost.flat else "grows"
    if not cost.endless:
        memory += ", finite"
    cache = type(made(card)[1]).__name__
    return (
        f"| {card.method}{paper} "
        f"| `{method.scheduler.__name__}`, `{cache}`, `{card.settings['noise']}` "
        f"| {card.models} | {cost.passes:.1f} | {cost.keys:.1f} "
        f"| {cost.first_frames} after {cost.first:,} | {cost.held} | {memory} | {card.scales} |"
    )


def _settings(method: Method) -> Iterator[str]:
    assert method.card is not None
    yield f"{method.card.method}: {method.card.purpose}"
    yield ""
    yield "```yaml"
    yield from (f"{name}: {value}" for name, value in method.card.settings.items())
    yield "```"
    yield ""


def _cell(scheduler: str, cache: str, reasons: dict[str, int]) -> str:
    """Return what becomes of a pair, for both kinds of models; remember why it is refused."""
    of_clip, of_frame = (
        refusal(pair(scheduler, cache, frame_levels=frame_levels)) for frame_levels in (False, True)
    )
    if of_frame is not None:
        return f"refused ({_number(of_frame, reasons)})"
    made, latent_frames = SCHEDULERS[scheduler]
    cost = method_cost(made, CACHES[cache], STEPS, 9 * latent_frames)
    equal = "equal" if cost.flat else "equal, grows"
    if of_clip is None:
        return equal
    return f"per frame: {equal}; per clip: refused ({_number(of_clip, reasons)})"


def _number(reason: str, reasons: dict[str, int]) -> int:
    """Return a reason's number: reasons that differ in frames and names only are one."""
    told = reason.replace("tiny Wan", "the model")
    names = "|".join(re.escape(name) for name in SCHEDULERS)
    alike = re.sub(r"\d+", "0", re.sub(rf"\bof ({names})\b", "of it", told))
    for known, number in reasons.items():
        if re.sub(r"\d+", "0", re.sub(rf"\bof ({names})\b", "of it", known)) == alike:
            return number
    return reasons.setdefault(told, len(reasons) + 1)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into the page")
    if parser.parse_args().write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(costs())
        print(pairs())


if __name__ == "__main__":
    main()
