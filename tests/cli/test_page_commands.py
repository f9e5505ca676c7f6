"""Commands of the README and the pages: those whose configuration is in the tree are planned."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command import run_here

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
OF_RUNS: Final = ("--output", "--timeline", "--overwrite", "--save", "--actions")
"""Options of what is written: a plan writes nothing here."""


def commands() -> list[list[str]]:
    """Return the options of the pages' ``predict`` and ``plan``, once each, as of a plan."""
    blocks = [
        block.replace("\\\n", " ")
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    lines = [re.sub(r"\s#.*", "", line) for block in blocks for line in block.splitlines()]
    found = [re.search(r"longtake (?:predict|plan) (.*--config (\S+).*)", line) for line in lines]
    ready = {file.stem for file in ROOT.glob("configs/**/*.yaml")}
    lines = [match[1] for match in found if match and Path(match[2]).stem in ready]
    return [list(words) for words in dict.fromkeys(tuple(planned(line)) for line in lines)]


def planned(line: str) -> list[str]:
    """Return a command's options without those of what is written."""
    kept, skip = list[str](), False
    for word in shlex.split(line):
        if word in OF_RUNS:
            skip = True
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


@pytest.mark.parametrize("options", commands(), ids=" ".join)
def test_a_command_of_a_page_can_run(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    here = [] if "--profile" in options else ["--trainer.accelerator", "cpu"]
    done = run_here(capsys, "plan", *options, *here)
    assert done.returncode == 0, done.stderr
    assert "first block seconds" in done.stdout
