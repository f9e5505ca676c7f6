"""Commands and figures of the README and the pages: made by a tool, or checked here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import pytest
import yaml
from safetensors import safe_open

import example_table
from longtake.framework.cli import ALONE

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
RUN_OPTIONS: Final = {
    *("config", "help", "version", "output", "overwrite", "resume", "extend", "plan", "timeline"),
    *("progress", "keep_latents", "keep_snapshots", "snapshot_seconds", "plugins", "format"),
    *("print_completion", "allow_hub_kernels", "profile", "actions", "compare", "save"),
    *("key", "text_encoder", "vae"),
}
"""Options of a command that are no keys of a configuration."""


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page's shell blocks, and those in backticks, in words."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:longtake|python) [^`\n]+)`", text)
    words = []
    for line in lines:
        plain = re.sub(r"\s#.*", "", line)
        if re.match(r"(\w+=\S+ )*(longtake|python|\.venv/bin/\w+) ", plain) and "..." not in plain:
            words.append(shlex.split(plain.replace("'", "").replace('"', "")))
    return words


def option_names() -> set[str]:
    """Return every option that ``longtake predict`` has, by the file that freezes them."""
    golden = yaml.safe_load((ROOT / "tests/cli/golden/predict.yaml").read_text())

    def names(part: object, prefix: str) -> set[str]:
        if not isinstance(part, dict):
            return set()
        below = {name: names(value, f"{prefix}{name}.") for name, value in part.items()}
        return {f"{prefix}{name}" for name in part}.union(*below.values())

    return names(golden, "") | RUN_OPTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_pages_name_exist(page: Path) -> None:
    known, wrong = option_names(), []
    for words in commands(page):
        if "longtake" not in words:
            continue
        command = words[words.index("longtake") + 1 :]
        if command and command[0] in ALONE:
            continue
        for word in command:
            name = re.match(r"--([a-z_0-9.]+)", word)
            # What a class of one's own takes stands behind its option: trainer.strategy.split.
            if name and name[1] not in known and name[1].rpartition(".")[0] not in known:
                wrong.append(word)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_pages_run_take_their_options(page: Path) -> None:
    wrong = []
    for words in commands(page):
        scripts = [word for word in words if re.fullmatch(r"(benchmarks|tools)/\w+\.py", word)]
        for script in scripts:
            text = (ROOT / script).read_text(encoding="utf-8")
            text += (ROOT / "benchmarks/common.py").read_text(encoding="utf-8")
            wrong += [
                f"{script} {word}"
                for word in words[words.index(script) :]
                if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text
            ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_pages_imports_what_is_public(page: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    modules = re.findall(r"^(?:from|import) (longtake[\w.]*)", "\n".join(code), re.MULTILINE)
    assert set(modules) <= {"longtake.api"}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.name
)
def test_examples_import_what_is_public(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    modules = re.findall(r"^(?:from|import) (longtake[\w.]*)", text, re.MULTILINE)
    assert set(modules) <= {"longtake.api"}


def test_the_table_of_examples_is_up_to_date() -> None:
    readme = example_table.README.read_text(encoding="utf-8")
    assert example_table.replaced(readme) == readme, "python tools/example_table.py --write"
    shown = {file for one in example_table.EXAMPLES for file in one.files}
    own = {file.name for file in (ROOT / "examples").glob("own_*.py")}
    assert own <= shown


def test_the_bundled_model_is_as_large_as_the_readme_says() -> None:
    (file,) = (ROOT / "src/longtake/assets/demo_model/transformer").glob("*.safetensors")
    numbers = 0
    with safe_open(file, framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - it is no mapping
            size = 1
            for dim in weights.get_slice(key).get_shape():
                size *= dim
            numbers += size
    said = re.search(r"of (\d+) million\s+parameters", (ROOT / "README.md").read_text())
    assert said is not None
    assert round(numbers / 1e6) == int(said[1])
