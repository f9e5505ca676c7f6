"""The real command on several ranks: the same video, one voice, and an end whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from torch import equal

from tests.cli.command import (
    COMMAND,
    ENVIRONMENT,
    TORCHRUN,
    frame_count,
    latents_of,
    predict,
    ranks,
    report_of,
    run,
    start,
    tiny_options,
)
from tests.cli.conftest import SerialRun
from tests.cli.forked import Forked

SECONDS_TO_END = 30
"""By then every process has ended, whatever happened to one of them; a loaded machine is slow."""


def _options(model: Path) -> list[str]:
    return [*tiny_options(model), "--progress", "plain"]


def _video(out: Path, request: int = 0) -> bytes:
    return (out / f"{request:04d}" / "video.mp4").read_bytes()


def _same(out: Path, serial: SerialRun, request: int = 0) -> bool:
    pairs = zip(latents_of(serial.out), latents_of(out, request), strict=True)
    return _video(out, request) == serial.video and all(equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("devices", "made"),
    [(2, predict), (3, partial(ranks, 3))],
    ids=["one starts 2", "torchrun's 3"],
)
def test_several_ranks_make_the_bytes_that_one_makes(
    model: Path,
    tmp_path: Path,
    serial: SerialRun,
    devices: int,
    made: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    out, prompts = tmp_path / "out", tmp_path / "prompts.txt"
    prompts.write_text("red shape moves left\nblue bird\n")  # two requests, one layout
    done = made(
        *_options(model), "--output", out, "--keep_latents", "all",
        "--trainer.devices", str(devices), "--trainer.strategy", "DualParal",
        "--trainer.strategy.cfg", "1", "--trainer.strategy.guidance", "together",
        "--data.prompts", prompts,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _same(out, serial)
    assert frame_count(out / "0001" / "video.mp4") == 37
    assert done.stderr.count("event=request_start") == 2, "one rank speaks for all"
    report = report_of(out)
    assert (report["exit_reason"], report["transport"]) == ("finished", "gloo")
    assert f"longtake: {devices} ranks, connected by gloo" in done.stderr, "auto says what it took"


def test_a_decode_device_changes_no_byte(model: Path, tmp_path: Path, serial: SerialRun) -> None:
    """Two videos and their timelines: the first one is decoded while the second is denoised.

    Over the transport through host memory, which a CPU takes too.
    """
    prompts = '["red shape moves left", "blue sea"]'
    done = ranks(
        2, *_options(model), "--data.prompts", prompts, "--output", tmp_path / "out",
        "--trainer.devices", "2", "--trainer.strategy", "SingleDevice",
        "--trainer.strategy.decode_devices", "1", "--keep_latents", "all", "--timeline", "true",
        "--trainer.transport", "staged",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _same(tmp_path / "out", serial)
    assert [request["frames"] for request in report_of(tmp_path / "out")["requests"]] == [37, 37]
    ends = [line for line in done.stderr.splitlines() if line.startswith("event=request_")]
    assert [line.split()[:2] for line in ends] == [
        [f"event=request_{mark}", f"request={request}"]
        for request in (0, 1)
        for mark in ("start", "end")
    ]


def test_torchrun_starts_the_ranks_and_another_number_of_them_is_refused(
    model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    for devices, status in ((2, 0), (3, 1)):
        done = run(
            [*TORCHRUN, "--standalone", "--nproc-per-node=2", "-m", "longtake", "predict",
             *_options(model), "--output", str(tmp_path / str(devices)), "--keep_latents", "all",
             "--trainer.devices", str(devices)]
        )  # fmt: skip
        assert done.returncode == status, done.stderr
    assert _same(tmp_path / "2", serial)
    told = "longtake: error: torchrun started 2 processes, but trainer.devices times"
    assert done.stderr.count(told) == 1, done.stderr
    assert not (tmp_path / "3").exists()


def test_srun_starts_the_ranks(model: Path, tmp_path: Path, serial: SerialRun) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, "predict", *_options(model), "--output", str(out), "--keep_latents", "all"]
    slurm = {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000),  # from which the port is made
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
    }
    processes = [
        subprocess.Popen(
            [*command, "--trainer.devices", "2"],
            env=ENVIRONMENT | slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[1] == ""
    assert _same(out, serial)


def test_a_mistake_is_told_once_before_other_processes_start(model: Path, tmp_path: Path) -> None:
    done = predict(
        *_options(model), "--output", tmp_path / "out",
        "--trainer.devices", "2", "--trainer.strategy", "SingleDevice",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("longtake: error: the strategy SingleDevice denoises on 1 ")
    assert done.stderr.count("\n") == 1


def test_ranks_that_cannot_meet_say_so_once_and_at_once(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for variables, told in (
            ({"MASTER_ADDR": "no-such-host.invalid"}, "finds no machine of the name no-such-host"),
            ({"MASTER_PORT": port}, f"port {port}, which another program uses"),
        ):
            done = predict(
                *_options(model), "--output", tmp_path / "out", "--overwrite", "true",
                "--trainer.devices", "2", variables=variables,
            )  # fmt: skip
            assert done.returncode == 2, done.stderr
            assert done.stderr.count("longtake: error: the ranks are to meet at") == 1, done.stderr
            assert told in done.stderr
            assert "Traceback" not in done.stderr


@contextmanager
def _running(model: Path, out: Path, frames: str) -> Iterator[Forked]:
    """Yield a run on two ranks that has written three blocks; a decode rank may lag behind.

    The first one is forked, and has started the other one as it always does.
    """
    with start(
        "predict", *_options(model), "--output", out,
        "--trainer.devices", "2", "--data.num_frames", frames,
        own_session=True,  # as a terminal gives Ctrl-C to a group of its own
    ) as process:  # fmt: skip
        for line in process.stderr:
            if "event=block_end" in line and int(line.partition(" frames=")[2].split()[0]) >= 33:
                break
        yield process


def _ended(process: Forked, others: list[psutil.Process]) -> tuple[int, str]:
    """Return status and stderr of a run, once all of its processes have ended."""
    deadline = time.monotonic() + SECONDS_TO_END
    rest = process.stderr.read()
    status = process.wait(timeout=SECONDS_TO_END)
    _, alive = psutil.wait_procs(others, timeout=max(1.0, deadline - time.monotonic()))
    for other in alive:
        other.kill()
    assert not alive, f"{len(alive)} processes go on: {rest}"
    assert time.monotonic() < deadline
    return status, rest


@pytest.mark.parametrize(
    ("frames", "sent", "to_all", "status"),
    [("null", signal.SIGINT, True, 0), ("4001", signal.SIGTERM, False, 75)],
    ids=["Ctrl-C in a terminal", "SIGTERM to the main process"],
)
def test_a_signal_ends_all_ranks_with_a_complete_file(
    model: Path, tmp_path: Path, frames: str, sent: signal.Signals, to_all: bool, status: int
) -> None:
    out = tmp_path / "out"
    with _running(model, out, frames) as process:
        others = psutil.Process(process.pid).children()
        if to_all:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        code, rest = _ended(process, others)
    assert code == status, rest
    assert rest.count("longtake: ending after the current task") == 1, "one rank speaks for all"
    assert "Traceback" not in rest
    report = report_of(out)
    assert report["exit_reason"] == "stopped"
    assert report["frames"] >= 33, "the first three blocks were decoded"
    assert frame_count(out / "0000" / "video.mp4") == report["frames"]


def test_ranks_of_one_machine_listen_on_its_loopback_alone(model: Path, tmp_path: Path) -> None:
    with _running(model, tmp_path / "out", "4001") as process:
        main = psutil.Process(process.pid)
        others = main.children()
        listening = {
            rank.pid: [
                held.laddr.ip
                for held in rank.net_connections("inet")
                if held.status == psutil.CONN_LISTEN
            ]
            for rank in (main, *others)
        }
        process.terminate()
        _ended(process, others)
    assert all(listening.values()), "gloo listens, and the store does"
    assert {address for found in listening.values() for address in found} == {"127.0.0.1"}


@pytest.mark.parametrize("victim", ["main", "other"])
def test_when_a_rank_dies_all_of_them_end_and_say_why(
    model: Path, tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out"
    with _running(model, out, "4001") as process:
        (other,) = psutil.Process(process.pid).children()
        psutil.Process(process.pid if victim == "main" else other.pid).kill()
        code, rest = _ended(process, [other])
    assert code == (-signal.SIGKILL if victim == "main" else 1), rest
    assert "Traceback" not in rest
    alive, dead = (1, 0) if victim == "main" else (0, 1)
    assert f"longtake: error: rank {alive} " in rest
    assert f"rank {dead}" in rest
    if victim == "other":
        report = report_of(out)
        assert report["exit_reason"] == "failed"
        assert "RankFailure" in report["error"]
        last = (out / "last_actions.txt").read_text().splitlines()
        assert [line.partition(":")[0] for line in last] == ["rank 0", "rank 1"]
        assert frame_count(out / "0000" / "video.mp4") == report["frames"]
    else:
        assert frame_count(out / "0000" / "video.mp4") > 0, "what had been written plays"


FAILING = """
import sys
from longtake.framework.callbacks import LongtakeCallback
from longtake.framework.main import main

class Fails(LongtakeCallback):
    def on_action_end(self, trainer, module, event):
        if trainer.global_rank == 1:
            raise ValueError("out of luck")

if __name__ == "__main__":
    main()
"""


def test_a_rank_that_fails_tells_the_others_why(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = run(
        [sys.executable, str(script), "predict", *_options(model), "--output",
         str(tmp_path / "out"), "--trainer.devices", "2", "--trainer.callbacks", "__main__.Fails"]
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "longtake: error: rank 0 " in done.stderr
    assert "rank 1 failed: ValueError: out of luck" in done.stderr
    assert done.stderr.count("Traceback") == 1, "of the rank that failed"
    assert "out of luck" in report_of(tmp_path / "out")["error"]
