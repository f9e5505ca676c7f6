"""Plan files on disk: written by ``longtake plan``, read for a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from longtake.errors import ConfigurationError, OutputError
from longtake.framework.engine.run_folder import replacing
from longtake.paths import expanded
from longtake.plan.errors import PlanError
from longtake.plan.ir.plan_file import PlanFile, read_plan, write_plan
from longtake.plan.ir.run import compile_run
from longtake.plan.ir.schedule import Schedule
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload


def open_plan(path: Path) -> PlanFile:
    """Read a plan file.

    Raises:
        ConfigurationError: There is none, or it says no plan; names the line.
    """
    try:
        return read_plan(expanded(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the plan file {path} cannot be read: {error}.") from error
    except PlanError as error:
        raise ConfigurationError(f"the plan file {path} is none: {error}") from error


def save_plan(path: Path, layout: Layout, workload: Workload, schedule: Schedule) -> None:
    """Write every rank's actions of one video.

    Args:
        path: Of the file; a file that is there is replaced.
        layout: Which rank holds and runs what.
        workload: What is made.
        schedule: The strategy's.

    Raises:
        ConfigurationError: The video is endless.
        NoPlan: The strategy gives no actions.
        OutputError: The file cannot be written.
    """
    if workload.latent_frames is None:
        raise ConfigurationError(
            "data.num_frames is null (an endless video), whose actions never end; give a number to "
            "write them down."
        )
    streams = compile_run(layout, replace(workload, requests=1), schedule)
    lines = "\n".join(write_plan(layout, workload.latent_frames, streams)) + "\n"
    try:
        with replacing(path) as temporary:
            temporary.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the plan cannot be written to {path}: {error}.") from error
