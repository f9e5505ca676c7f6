"""Rerun of a run's configuration: what differs from the machine on which it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from longtake.framework.console.versions import PACKAGES, versions
from longtake.framework.engine.run_folder import CONFIG_HEADER, REPORT

_VERSIONS: Final = ("longtake", *PACKAGES)
"""Software that may change bits."""


def differences(configs: Iterable[Path], hardware: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence on each configuration whose run was made otherwise than one would be now.

    Args:
        configs: Files of options, among which may be some that a run has left.
        hardware: Of this machine.
    """
    for config in configs:
        changes = list(_changes(config, hardware))
        if changes:
            yield (
                f"the run of {config} was made with {', '.join(changes)}: what is made now may "
                f"differ from it in the last bits."
            )


def _changes(config: Path, hardware: Mapping[str, Any]) -> Iterator[str]:
    try:
        if not config.read_text(encoding="utf-8").startswith(CONFIG_HEADER):
            return
        report = json.loads((config.parent / REPORT).read_text(encoding="utf-8"))
        then = {name: report["versions"].get(name) for name in _VERSIONS}
        device = report.get("hardware", hardware)["device"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # a run that made nothing, or somebody else's file
    now = versions()
    for name in _VERSIONS:
        if then[name] != now[name]:
            yield f"{name} {then[name]} (here {now[name]})"
    if device != hardware["device"]:
        yield f"{device} (here {hardware['device']})"
