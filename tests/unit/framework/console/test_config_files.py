"""Configuration files that a parser would not come to an end with."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.errors import ConfigurationError
from longtake.framework.console.config_files import check_files

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a {b: *a}", "within the value that it stands for, line 1"),
        ("&x [*x]", "within the value"),
        (BOMB, "more than 100,000 values"),
        ("[" * 90 + "1" + "]" * 90, None),
        ("[" * 150 + "1" + "]" * 150, "nested more than 100 levels"),
        ("[" * 5000, "nested more than 100 levels"),
        ("- " * 5000, "nested more than 100 levels"),
        ("a: '" + "x" * 1_000_001 + "'", "has 1,000,006 bytes"),
        ("a: &a {x: 1}\nb: *a\nc: [*a, *a]", None),
        ("", None),
        ("{a: ", None),
        ("\x00", None),
    ],
)
def test_endless_files_are_refused(text: str, said: str | None, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for args in (["predict", "--config", str(file)], ["plan", f"-c={file}"]):
        if said is None:
            check_files(args)
        else:
            with pytest.raises(ConfigurationError, match=said):
                check_files(args)


def test_what_is_no_file_is_left_to_the_parser(tmp_path: Path) -> None:
    for name in ("missing.yaml", str(tmp_path), "", "\0", "x" * 300):
        check_files(["predict", "--config", name, "--config"])
