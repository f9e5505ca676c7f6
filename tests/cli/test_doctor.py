"""``longtake doctor``: a line for everything that a report of a bug should say."""

from __future__ import annotations

import pytest

from longtake.framework.console import doctor
from longtake.framework.console.doctor import Finding, show
from tests.cli.command import COMMAND, longtake, run


def test_it_looks_at_everything_in_a_minute() -> None:
    done = run([*COMMAND, "doctor"])
    found = {line[6:26].strip(): line[:5].strip() for line in done.stdout.splitlines()}
    for line in done.stdout.splitlines():
        if "not done after" in line:  # a machine with no time left, which is told in its place
            found[line[6:26].strip()] = "ok"
    for part in (
        *("versions", "cpu", "host name", "attention", "disk, here", "disk, models"),
        *("transport gloo", "transport staged"),
    ):
        assert found[part] == "ok", done.stdout
    assert {"transport nccl", "hub token"} <= found.keys()


def test_it_takes_no_options() -> None:
    done = longtake("doctor", "--model.pipeline", "demo")
    assert done.returncode == 2
    assert "there is no option model.pipeline" in done.stderr


def test_what_ought_to_work_and_does_not_is_an_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(iter([Finding("disk", "ok", "fine"), Finding("gpu", "none", "none")])) == 0
    assert show(iter([Finding("host name", "bad", "does not resolve")])) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "bad   host name            does not resolve"
    )


def test_a_transport_that_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda command: ("", "RuntimeError: no route to host"))
    finding = doctor._handshake("gloo")
    assert finding == Finding("transport gloo", "bad", "RuntimeError: no route to host")


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    finding = doctor._token()
    assert finding.state == "ok"
    assert "secret" not in str(finding)
