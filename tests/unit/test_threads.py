"""The wait policy of OpenMP's threads: set in time, inherited, never against the user."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from longtake.errors import ConfigurationError
from longtake.threads import brief_spins, check_number, is_to_sleep, sleep_at_barriers

USERS = [
    {"OMP_WAIT_POLICY": "ACTIVE"},
    {"GOMP_SPINCOUNT": "300000"},
    {"KMP_BLOCKTIME": "200"},
    {"KMP_LIBRARY": "turnaround"},
]
UNSET = {
    name: value
    for name, value in os.environ.items()
    if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
}


def test_threads_sleep_at_barriers_where_the_user_says_nothing() -> None:
    environment = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}
    sleep_at_barriers(environment)
    assert environment == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.mark.parametrize("said", ["4", " 4 ", "04", "4,2", "8, 4 ,1"])
def test_a_number_of_threads_is_taken(said: str) -> None:
    environment = {"OMP_NUM_THREADS": said}
    check_number(environment)
    assert environment == {"OMP_NUM_THREADS": said}


@pytest.mark.parametrize("environment", [{}, {"OMP_NUM_THREADS": ""}, {"OMP_NUM_THREADS": " "}])
def test_an_empty_number_of_threads_is_as_none(environment: dict[str, str]) -> None:
    check_number(environment)
    assert environment == {}


@pytest.mark.parametrize("said", ["0", "-1", "demo", "4;2", "1e3", "4,", "٤", "9" * 30, "4\n!"])
def test_what_is_no_number_of_threads_is_refused(said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"OMP_NUM_THREADS is .*, but it is a number"):
        check_number({"OMP_NUM_THREADS": said})


@pytest.mark.parametrize("users", USERS, ids=lambda users: next(iter(users)))
def test_what_the_user_has_set_stays(users: dict[str, str]) -> None:
    environment = dict(users)
    sleep_at_barriers(environment)
    assert environment == users
    assert not is_to_sleep(environment)


def test_the_import_loads_no_library_and_tells_processes_started_later() -> None:
    code = (
        "import sys, longtake, subprocess\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules\n"
        "code = \"import os; print(os.environ['OMP_WAIT_POLICY'])\"\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=UNSET, check=False
    )
    assert (done.returncode, done.stdout) == (0, "PASSIVE\n"), done.stderr


def _teams() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "longtake-team"]


def test_a_second_team_is_kept_for_as_long_as_spins_are_to_be_brief() -> None:
    with brief_spins({"OMP_WAIT_POLICY": "passive"}):
        assert len(_teams()) == 1
    assert _teams() == []


@pytest.mark.parametrize("users", [*USERS, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "9"}])
def test_where_the_user_wants_spins_they_are_left_alone(users: dict[str, str]) -> None:
    with brief_spins(users):
        assert _teams() == []


def test_the_second_team_goes_with_a_run_that_fails() -> None:
    with (
        pytest.raises(ValueError, match="out of luck"),
        brief_spins({"OMP_WAIT_POLICY": "PASSIVE"}),
    ):
        raise ValueError("out of luck")
    assert _teams() == []
