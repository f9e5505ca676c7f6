"""Launchers by their variables: one run, whatever shell, job name or order of words."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.command import COMMAND, PATIENCE, longtake, predict, run, start, tiny_options
from tests.cli.conftest import SerialRun


def test_tasks_of_srun_in_salloc_are_the_ranks_of_one_run(
    model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    """The job's name, "interactive", is inherited; no tasks per machine are told."""
    out = tmp_path / "out"
    step = {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000),  # from which the port is made
        "SLURM_JOB_NAME": "interactive",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NODEID": "0",
    }
    processes = [
        start(
            "predict",
            *tiny_options(model),
            "--output",
            out,
            "--trainer.devices",
            "2",
            variables=step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video


def _step_of(ranks: int, port_seed: int) -> list[dict[str, str]]:
    """Return the variables of a step's tasks, all on this machine."""
    step = {
        "SLURM_JOB_ID": str(port_seed),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_TASKS_PER_NODE": str(ranks),
        "SLURM_NODEID": "0",
    }
    return [step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(ranks)]


def test_when_the_first_rank_refuses_all_of_a_step_end(model: Path, tmp_path: Path) -> None:
    """Srun ends nobody by itself; only the first rank looks at the folder."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    processes = [
        start(
            "predict",
            *tiny_options(model),
            "--output",
            out,
            "--trainer.devices",
            "2",
            variables=task,
        )
        for task in _step_of(2, 20_000 + os.getpid() % 10_000)
    ]
    first, other = (process.communicate(timeout=PATIENCE)[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2], (first, other)
    assert first.count("longtake: error: ") == 1
    assert other == ""


def test_a_signal_while_the_ranks_meet_ends_the_run(model: Path, tmp_path: Path) -> None:
    """Of a step of two only one has come."""
    first, _ = _step_of(2, 30_000 + os.getpid() % 10_000)
    with start(
        "predict",
        *tiny_options(model),
        "--output",
        tmp_path / "out",
        "--trainer.devices",
        "2",
        variables=first,
    ) as process:
        line = next(line for line in process.stderr if "waits for rank 1 to come to" in line)
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 75, line + rest
    assert rest.startswith("longtake: ending")
    assert "Traceback" not in rest


def test_in_a_shell_of_srun_the_ranks_are_started_here(
    model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    out = tmp_path / "out"
    shell = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "zsh",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    done = predict(*tiny_options(model), "--output", out, "--trainer.devices", "2", variables=shell)
    assert done.returncode == 0, done.stderr
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video


def test_mpirun_makes_no_run_twice(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, other = (
        start(
            "predict",
            *tiny_options(model),
            "--output",
            out,
            variables={"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)},
        )
        for rank in range(2)
    )
    assert first.communicate(timeout=PATIENCE)[1].count("mpirun started 2 processes") == 1
    other.terminate()  # as mpirun does when a rank has failed
    assert other.communicate(timeout=PATIENCE)[1] == ""
    assert first.returncode == 2
    assert not out.exists()


def test_variables_that_are_no_numbers_are_refused_before_anything_reads_them(
    model: Path, tmp_path: Path
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        command = [*COMMAND, "predict", *tiny_options(model), "--output", str(tmp_path / "out")]
        done = run(command, variables={name: "one"})
        assert done.returncode == 2
        assert done.stderr.startswith(f"longtake: error: the environment variable {name} is 'one'")
        assert done.stderr.count("\n") == 1


def test_a_config_may_stand_before_the_command(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = longtake("--config", config, "predict", "--output", out)
    assert done.returncode == 0, done.stderr
    assert (out / "0000" / "video.mp4").exists()


def test_a_scale_that_is_no_number_is_refused(config: Path, tmp_path: Path) -> None:
    for scale in (".nan", ".inf", "-.inf"):
        lora = f"[{{path: {tmp_path}/x.safetensors, scale: {scale}}}]"
        out = tmp_path / "out"
        done = predict("--config", config, "--output", out, "--model.lora", lora)
        assert done.returncode == 2
        assert "it must be a finite number" in done.stderr
        assert not out.exists()
