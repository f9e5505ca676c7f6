"""Comparison report, as ``longtake plan --compare`` prints it, and the recommendation as YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from longtake.errors import ConfigurationError
from longtake.framework.engine.comparison import Choice
from longtake.framework.engine.run_folder import replacing
from longtake.plan.mesh import Axis
from longtake.tables import Cell, Format, show_rows

ONLY_PLAN: Final = ("profile", "actions", "compare", "format", "save", "plan", "seed_everything")
"""Options of ``longtake plan`` that no run takes, and what Lightning adds."""
_ONE_CLASS: Final = "__subclasses_disabled__"
"""What jsonargparse notes beside the class of a value that can be of no other one."""


def show(
    choices: Sequence[Choice], best: Choice | None, temporal: int, format_: Format = "table"
) -> None:
    """Print choices to stdout: tables for people, JSON for programs.

    Args:
        choices: Those that can be first, and in the order in which they are shown.
        best: The recommended one.
        temporal: Video frames per latent frame.
        format_: Of what is printed.
    """
    able = [_row(one, best, temporal) for one in choices if not one.refusal]
    unable = [{**_named(one), "reason": one.refusal} for one in choices if one.refusal]
    if format_ == "json":
        found = {"choices": able, "refused": unable}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    show_rows("what can run (other caches make other videos)", able)
    if unable:
        show_rows("what cannot", unable)


def save(path: Path, config: Mapping[str, Any], best: Choice) -> None:
    """Write the configuration of a run that does what is recommended.

    Args:
        path: File that must not exist.
        config: Of the plan.
        best: What is recommended.

    Raises:
        ConfigurationError: As ``check_new``, or it cannot be written.
    """
    check_new(path)
    content = {name: _plain(value) for name, value in config.items() if name not in ONLY_PLAN}
    chosen = {"class_path": best.strategy, "init_args": dict(best.options)}
    content["trainer"] = {**content.get("trainer", {}), "strategy": chosen}
    cache = content.get("model", {}).get("cache")
    if not isinstance(cache, dict) or cache["class_path"].split(".")[-1] != _cache(best):
        content["model"] = {**content.get("model", {}), "cache": _cache(best)}
    try:
        with replacing(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--save is {path}, which cannot be written: {error}") from error


def check_new(path: Path) -> None:
    """Refuse a file that exists.

    Raises:
        ConfigurationError: It does.
    """
    if path.exists():
        raise ConfigurationError(f"--save is {path}, which exists; choose another name.")


def _plain(value: Any) -> Any:
    """Return a value as people write it: what can be of one class alone does not name it."""
    if isinstance(value, dict):
        if value.get(_ONE_CLASS):
            return _plain(value["init_args"])
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _row(one: Choice, best: Choice | None, temporal: int) -> dict[str, Cell]:
    return {
        **_named(one),
        "first_frames_s": one.first,
        "total_s": one.seconds,
        "frames_per_s": round(one.pace * temporal, 3),
        "peak_gb": one.peak / 1e9,
        "idle_percent": 100 * one.idle,
        "sent_gb_per_block": one.sent / 1e9,
        "best": one is best,
    }


def _named(one: Choice) -> dict[str, Cell]:
    if one.layout is None:
        return {"strategy": "any", "mesh": "any", "guidance": "any", "cache": _cache(one)}
    mesh = replace(one.layout.mesh, data=one.data)
    degrees = [f"{axis}{n}" for axis, n in zip(Axis, mesh.degrees, strict=True) if n > 1]
    decoders = [f"decode{one.layout.decoders}"] if one.layout.decoders else []
    layers = [len(stage) for stage in one.layout.stages]
    uneven = [f"layers {','.join(map(str, layers))}"] if len(set(layers)) > 1 else []
    return {
        "strategy": one.strategy,
        "mesh": " ".join([*degrees, *decoders, *uneven]) or "1",
        "guidance": "together" if len(one.layout.batches) == 1 else "apart",
        "cache": _cache(one),
    }


def _cache(one: Choice) -> str:
    return type(one.cache).__name__
