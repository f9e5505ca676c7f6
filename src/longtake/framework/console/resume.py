"""Resume on the command line: arguments of a run that goes on, and what may not have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from longtake.errors import ConfigurationError
from longtake.framework.engine.run_folder import CONFIG, RunFolder

RESUME: Final = "--resume"
AUTO: Final = "auto"
_FIXED: Final = ("model", "data", "video")
"""Parts of a configuration that make the video what it is; where it is made may change."""
_SHOWN: Final = 8


def resume_arguments(args: list[str]) -> list[str]:
    """Return a command's arguments with what ``--resume RUN`` stands for: the run's own options.

    Args:
        args: Of the command line; others than those of ``predict --resume RUN`` stay as they are.

    Raises:
        OutputError: There is no run in the folder.
    """
    run = _value(args, RESUME)
    if args[:1] != ["predict"] or run is None or run == AUTO:
        return args
    folder = RunFolder(run)
    folder.check_is_run()
    config = [] if _value(args, "--config") else ["--config", str(folder.path / CONFIG)]
    return ["predict", *config, *args[1:], "--output", run]


def check_unchanged(folder: RunFolder, config: str) -> None:
    """Refuse to go on with a run whose video would become another one.

    Args:
        folder: The run's.
        config: As it would be written now.

    Raises:
        ConfigurationError: Names every option that differs, then and now.
    """
    before = _flat(yaml.safe_load((folder.path / CONFIG).read_text(encoding="utf-8")))
    now = _flat(yaml.safe_load(config))
    changes = [
        f"{name}: {_said(before, name)} -> {_said(now, name)}"
        for name in sorted(before.keys() | now.keys())
        if name.partition(".")[0] in _FIXED and before.get(name) != now.get(name)
    ]
    if changes:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on with other options than it was begun with: "
            f"{'; '.join(changes[:_SHOWN])}{more}. Leave them out, or give another --output."
        )


def _said(options: Mapping[str, Any], name: str) -> str:
    return repr(options[name]) if name in options else "not given"


def _flat(config: Any) -> dict[str, Any]:
    return dict(_leaves("", config))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def _value(args: list[str], option: str) -> str | None:
    """Return what was given to an option, the last time."""
    found = None
    for index, arg in enumerate(args):
        if arg == option:
            found = next(iter(args[index + 1 :]), None)
        elif arg.startswith(f"{option}="):
            found = arg.removeprefix(f"{option}=")
    return found


def absolute(path: Any) -> Any:
    """Return an option that names a file or folder that exists as an absolute path."""
    if not isinstance(path, str) or not Path(path).expanduser().exists():
        return path
    return str(Path(path).expanduser().absolute())
