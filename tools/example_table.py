"""Prints the README's table of examples: a class of one's own for each contract, and its lines.

``python tools/example_table.py`` prints it; ``--write`` puts it into the README, between the two
comments that name this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import marked_part

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A class of one's own.

    Args:
        contract: In words.
        base: The classes that are subclassed.
        files: Of the example, below ``examples``.
        page: Below ``docs``.
    """

    contract: str
    base: str
    files: tuple[str, ...]
    page: str


EXAMPLES = (
    Example(
        contract="backbone, decoder, family",
        base="`Backbone`, `VideoDecoder`, `ModelFamily`",
        files=("plug_in_backbone.py",),
        page="new-backbone.md",
    ),
    Example(
        contract="the same, a published model as a package",
        base="`Backbone`, `ModelFamily`",
        files=("allegro/longtake_allegro/backbone.py", "allegro/longtake_allegro/family.py"),
        page="new-backbone.md",
    ),
    Example(
        contract="schedule of blocks",
        base="`BlockScheduler`",
        files=("own_schedule.py",),
        page="new-method.md",
    ),
    Example(
        contract="feature cache",
        base="`FeatureCache`",
        files=("own_cache.py",),
        page="new-method.md",
    ),
    Example(contract="noise", base="`NoiseInit`", files=("own_noise.py",), page="new-method.md"),
    Example(contract="sampler", base="`Sampler`", files=("own_sampler.py",), page="new-sampler.md"),
    Example(contract="guidance", base="`Guidance`", files=("own_guidance.py",), page="guidance.md"),
    Example(
        contract="layer reuse",
        base="`LayerReuse`",
        files=("own_reuse.py",),
        page="layer-reuse.md",
    ),
    Example(
        contract="attention kernel",
        base="`AttentionKernel`",
        files=("own_attention.py",),
        page="attention.md",
    ),
    Example(
        contract="strategy on one device",
        base="`ParallelStrategy`",
        files=("subclass_strategy.py",),
        page="new-strategy.md",
    ),
    Example(
        contract="strategy on two, as actions",
        base="`ParallelStrategy`",
        files=("two_rank_strategy.py",),
        page="new-strategy.md",
    ),
    Example(
        contract="callback",
        base="`LongtakeCallback`",
        files=("own_callback.py",),
        page="callbacks.md",
    ),
    Example(
        contract="a video from Python", base="`Engine`", files=("make_video.py",), page="api.md"
    ),
)


def lines_of(file: str) -> int:
    """Return the lines of an example's file."""
    return (ROOT / "examples" / file).read_bytes().count(b"\n")


def table() -> str:
    """Return the table in Markdown."""
    return "".join(f"{line}\n" for line in _rows())


def replaced(readme: str) -> str:
    """Return the README's text with the table as it is now."""
    return marked_part.replaced(readme, "tools/example_table.py", table())


def _rows() -> Iterator[str]:
    yield ""
    yield "| contract | subclass | page | example, lines |"
    yield "|---|---|---|---|"
    for one in EXAMPLES:
        files = ", ".join(f"[{lines_of(file)}](examples/{file})" for file in one.files)
        yield f"| {one.contract} | {one.base} | [{one.page}](docs/{one.page}) | {files} |"
    yield ""


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the README")
    if parser.parse_args().write:
        README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
