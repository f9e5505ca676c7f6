"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.errors import ConfigurationError
from longtake.paths import expanded


def test_a_home_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a"
    assert expanded(Path("a/b")) == Path("a/b")


@pytest.mark.parametrize(
    ("path", "said"),
    [("~no-such-user/x", "begins with ~no-such-user, but there is no such user"), ("a\0b", "zero")],
)
def test_what_can_be_no_path_is_refused(path: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        expanded(path)
