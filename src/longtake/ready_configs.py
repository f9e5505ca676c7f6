"""Ready configurations: complete runs that travel with longtake, found by their names.

In a checkout they are the files of ``configs/`` and ``configs/gpu/``; a wheel holds the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from longtake.errors import ConfigurationError, suggestion
from longtake.tables import Cell, Format, show_rows

_FOLDERS: Final = (
    Path(__file__).parent / "assets" / "configs",
    Path(__file__).parents[2] / "configs",
)
"""Of a wheel, and of a checkout."""
_OPTIONS: Final = ("--config", "-c")
_NAME: Final = re.compile(r"(?:configs/)?([\w.-]+?)(?:\.yaml)?")
_FROM_IMAGE: Final = "--data.start "


def ready_configs() -> dict[str, Path]:
    """Return every ready configuration's file by its name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("gpu/*.yaml"))]
    return {file.stem: file for file in files}


def with_files(args: Sequence[str]) -> list[str]:
    """Put the file of a ready configuration in place of its name; a file of that name goes first.

    Args:
        args: Of the command. ``--config demo`` and ``--config configs/demo.yaml`` mean the same
            where there are no such files.

    Raises:
        ConfigurationError: There is neither a file nor a ready configuration of that name.
    """
    found = list(args)
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in _OPTIONS and equals:
            found[place] = f"{name}={_file(value)}"
        elif name in _OPTIONS and place + 1 < len(args):
            found[place + 1] = _file(args[place + 1])
    return found


def _file(value: str) -> str:
    named = _NAME.fullmatch(value)
    if named is None or Path(value).exists():
        return value
    configs = ready_configs()
    if named[1] in configs:
        return str(configs[named[1]])
    if named[1] != value:  # a file was meant: the parser says that there is none
        return value
    raise ConfigurationError(
        f"--config is {value!r}, but there is no such file, and no ready configuration of that "
        f"name{suggestion(value, configs)}; longtake configs lists all."
    )


def show_configs(format_: Format = "table") -> None:
    """Print every ready configuration: what it makes and what it needs."""
    show_rows("configs", list(rows_of(ready_configs())), format_)


def rows_of(configs: Mapping[str, Path]) -> Iterator[dict[str, Cell]]:
    """Yield what each configuration makes and what it needs, as columns of a table.

    Args:
        configs: Files by name.
    """
    for name, file in configs.items():
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        trainer, model, data = (content.get(part, {}) for part in ("trainer", "model", "data"))
        yield {
            "name": name,
            "makes": _about(text),
            "model": model["pipeline"],
            "devices": _devices(trainer),
            "video": _video(data),
            "needs": ", ".join(_needs(text, model, data)),
        }


def _about(text: str) -> str:
    """Return the first sentence of a file's comment."""
    lines = (line for line in text.splitlines() if line.startswith("#"))
    said = " ".join(line.removeprefix("#").strip() for line in lines)
    return re.split(r"(?<=[.:])\s", said, maxsplit=1)[0].rstrip(".:")


def _devices(trainer: Mapping[str, Any]) -> str:
    count = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    kind = {"cuda": "GPU", "cpu": "CPU"}.get(trainer.get("accelerator", "auto"), "device")
    return f"{count} {kind}{'s' * (count > 1 and kind != 'CPU')}"


def _video(data: Mapping[str, Any]) -> str:
    size = f", {data['width']} x {data['height']}" if "width" in data else ""
    if "num_frames" not in data:
        return f"the model's own length{size}"
    frames, rate = data["num_frames"], data.get("fps")
    if frames is None:
        return f"endless{size}"
    return f"{frames / rate:.0f} s{size}" if rate else f"{frames} frames{size}"


def _needs(text: str, model: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    pipeline = model["pipeline"]
    if pipeline.startswith((".", "/")):
        yield f"the folder {pipeline}, made as the file says"
    elif "/" in pipeline:
        yield "a download"
    else:
        yield "nothing: the model is bundled"
    if "weights" in model:
        yield f"{model['weights']}, made as the file says"
    loras = model.get("lora", [])
    for lora in loras if isinstance(loras, list) else [loras]:
        yield lora["path"] if isinstance(lora, dict) else str(lora)
    if "start" in data:
        yield str(data["start"])
    elif any(_FROM_IMAGE in line and "predict" in line for line in text.splitlines()):
        yield "an image to begin with (--data.start)"
