"""``longtake --help`` and ``--version``: at once, and what the whole command line would say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from longtake import __version__
from longtake.framework.main import main
from tests.cli.command import COMMAND, run

ROOT = Path(__file__).parents[2]
ASKED = """
import sys
from longtake.__main__ import main
sys.argv = ["longtake", *{asked!r}]
try:
    main()
except SystemExit:
    pass
print(sorted(sys.modules.keys() & {{"torch", "lightning", "diffusers", "transformers"}}))
"""


@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_help_is_that_of_the_whole_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    whole = capsys.readouterr().out
    assert "predict" in whole
    for option in ("--help", "-h"):
        done = run([*COMMAND, option], variables={"COLUMNS": columns})
        assert (done.returncode, done.stdout, done.stderr) == (0, whole, "")


def test_the_version_is_that_of_the_whole_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    done = run([*COMMAND, "--version"])
    assert (done.returncode, done.stdout) == (0, capsys.readouterr().out)
    assert done.stdout == f"longtake {__version__}\n"


@pytest.mark.parametrize(
    "asked",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["plan", "--help=model"],
        ["models"],
        ["methods", "--format=json"],
        ["strategies"],
    ],
    ids=str,
)
def test_nothing_large_is_imported_for_them(asked: list[str]) -> None:
    done = run([sys.executable, "-c", ASKED.format(asked=asked)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[]\n")


def test_the_files_of_quick_help_are_what_the_command_line_says() -> None:
    """``python tools/help_files.py --write`` makes them anew."""
    done = run([sys.executable, str(ROOT / "tools" / "help_files.py")])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_help_that_there_is_none_of_is_refused() -> None:
    done = run([*COMMAND, "predict", "--help=modle"])
    assert done.returncode == 2
    assert done.stderr == (
        "longtake: error: --help is 'modle'; possible: all, model, data, trainer, video, run, the "
        "nearest is 'model'. [LT-CONFIG]\n"
    )
