"""Published listings of context windows, and the windows of recorded runs.

Further ones are taken from the folder that the environment variable LONGTAKE_REFERENCE names:
listings ``*windows*.json``, runs ``*windows*/case.json``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.schedulers.window_lists import WINDOW_LISTS, Window, WindowList, WindowShape

FOLDER = Path(__file__).parents[2] / "cases" / "context-windows"
STANDARD = {"standard_static": "static", "standard_uniform": "uniform", "batched": "batched"}


@dataclass(frozen=True)
class Published:
    """The windows of one step of one listing, and their weights by rule."""

    name: str
    list_of: WindowList
    frames: int
    shape: WindowShape
    steps: tuple[int, ...]
    windows: tuple[Window, ...]
    weights: dict[str, list[list[float]]]
    tiny: dict[str, list[int]]


def files(own: list[str], further: str) -> list[Path]:
    folder = os.environ.get("LONGTAKE_REFERENCE")
    found = sorted(Path(folder).glob(further)) if folder else []
    return [*(FOLDER / name for name in own), *found]


def schedule(case: dict[str, Any]) -> WindowList:
    name: str = case["schedule"]
    if name == "looped_uniform":
        return WINDOW_LISTS["looped" if case["closed_loop"] else "looped_open"]
    return WINDOW_LISTS[STANDARD[name]]


def published() -> list[Published]:
    return [
        Published(
            name=f"{file.stem}-{number}-{case['schedule']}-step-{step['step']}",
            list_of=schedule(case),
            frames=case["frames"],
            shape=WindowShape(
                length=case["length"], overlap=case["overlap"], stride=case["stride"]
            ),
            steps=(0, 1, 2, 7) if step["step"] == "all" else (step["step"],),
            windows=tuple(tuple(window) for window in step["windows"]),
            weights=step["weights"],
            tiny=step.get("zero_total_weight", {}),
        )
        for file in files(["comfy-windows-a.json"], "*windows*.json")
        for number, case in enumerate(json.loads(file.read_text())["cases"])
        for step in case["steps"]
    ]


def recorded() -> list[dict[str, Any]]:
    runs = ["context-windows-a.json", "context-windows-uniform-a.json"]
    return [json.loads(file.read_text()) for file in files(runs, "*windows*/case.json")]
