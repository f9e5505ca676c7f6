"""Reports of replicas: each writes its own beside the first one's, which holds all at the end.

Nothing of a request that is finished may be removed before a report on the disk says so; and no
replica waits for another one to write it down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from longtake.framework.engine.run_folder import REPORT, RunFolder


def part_name(replica: int) -> str:
    """Return the name of what a replica reports; the first one's is the report of the run."""
    return f"report-{replica}.json" if replica else REPORT


def read_report(path: Path) -> dict[str, Any]:
    """Return what a report says; empty where there is none, or none that can be read."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def parts_of(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what the other replicas report, as far as the run's report does not hold it."""
    return [read_report(part) for part in folder.report_parts()]


def merged(*reports: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the requests of reports, in order; what a later one says holds."""
    found: dict[int, dict[str, Any]] = {}
    for report in reports:
        found |= {one["index"]: one for one in report.get("requests", ())}
    return [one for _, one in sorted(found.items())]


def whole_report(folder: RunFolder) -> dict[str, Any]:
    """Return the report of a run with what its replicas have left beside it."""
    parts = parts_of(folder)  # before they may be gone into the first
    report = read_report(folder.path / REPORT)
    return report | {"requests": merged(report, *parts)} if parts else report


def fold(folder: RunFolder) -> None:
    """Have the report of a run that goes on hold what its replicas have left beside it."""
    if folder.report_parts():
        folder.write_json(REPORT, whole_report(folder))
        forget_parts(folder)


def forget_parts(folder: RunFolder) -> None:
    """Remove what the run's report holds."""
    for part in folder.report_parts():
        part.unlink(missing_ok=True)


def pace(requests: Iterable[Mapping[str, Any]], frames: int) -> float:
    """Return video frames per second without loading: of replicas, until the last one was done.

    Args:
        requests: As reports have them.
        frames: Video frames in all.
    """
    seconds: dict[int, float] = {}
    for one in requests:
        replica = one.get("replica", 0)
        seconds[replica] = seconds.get(replica, 0.0) + one["seconds"]
    longest = max(seconds.values(), default=0.0)
    return frames / longest if longest > 0 else 0.0
