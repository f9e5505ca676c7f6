"""Resume on the command line: arguments of a run that goes on, and what may not have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from longtake.errors import ConfigurationError
from longtake.framework.engine.extension import Extensions
from longtake.framework.engine.run_folder import CONFIG, RunFolder

RESUME: Final = "--resume"
EXTEND: Final = "--extend"
FRAMES: Final = "--data.num_frames"
AUTO: Final = "auto"
_FIXED: Final = ("model", "data", "video")
"""Parts of a configuration that make the video what it is; where it is made may change."""
FILES: Final = (
    ("model", "pipeline"),
    ("model", "weights"),
    ("model", "weights_2"),
    ("data", "start"),
    ("data", "end"),
    ("data", "prompts"),
)
"""Options that may name a file or folder."""
_MAY_MOVE: Final = (*map(".".join, FILES), "model.lora", "data.keyframes")
"""Options whose files are compared by what is in them."""
_LENGTH: Final = FRAMES.removeprefix("--")
_SHOWN: Final = 8


def resume_arguments(args: list[str]) -> list[str]:
    """Return a command's arguments with what ``--resume RUN`` or ``--extend RUN`` stands for.

    That is the run's own options.

    Args:
        args: Of the command line; others than those of ``predict`` stay as they are.

    Raises:
        ConfigurationError: A run is to be extended, but not said how far.
        OutputError: There is no run in the folder.
    """
    resumed, extended = _value(args, RESUME), _value(args, EXTEND)
    if args[:1] != ["predict"] or (extended is None and resumed in (None, AUTO)):
        return args
    if resumed is not None and extended is not None:
        raise ConfigurationError("--resume goes on with a run and --extend with a finished one.")
    run = resumed or extended
    assert run is not None
    folder = RunFolder(run)
    folder.check_is_run()
    config = [] if _value(args, "--config") else ["--config", str(folder.path / CONFIG)]
    if extended is not None:
        _check_length(args, extended)
    frames = _frames(args, folder)
    return ["predict", *config, *args[1:], *frames, "--output", run]


def _frames(args: list[str], folder: RunFolder) -> list[str]:
    """Return the length of a run that was extended, which its config may not say yet."""
    extensions = Extensions.read(folder)
    if extensions is None or _value(args, FRAMES) is not None:
        return []
    return [FRAMES, str(extensions.num_frames)]


def _check_length(args: list[str], run: str) -> None:
    if not (_value(args, FRAMES) or "").isdecimal():
        raise ConfigurationError(
            f"--extend {run} needs the number of video frames that there are to be in all, those "
            f"that are there included: {FRAMES} N."
        )


def check_unchanged(folder: RunFolder, config: str, num_frames: int | None = None) -> bool:
    """Refuse to go on with a run whose video would become another one.

    Files and folders may have moved: what is in them is compared by their checksums.

    Args:
        folder: The run's.
        config: As it would be written now.
        num_frames: Of a run that has been extended, or is to be: its length.

    Returns:
        Whether some have moved.

    Raises:
        ConfigurationError: Names every option that differs, then and now.
    """
    before = _flat(yaml.safe_load((folder.path / CONFIG).read_text(encoding="utf-8")))
    if num_frames is not None:
        before[_LENGTH] = num_frames
    now = _flat(yaml.safe_load(config))
    differing = [
        name
        for name in sorted(before.keys() | now.keys())
        if name.partition(".")[0] in _FIXED and before.get(name) != now.get(name)
    ]
    changes = [
        f"{name}: {_said(before, name)} -> {_said(now, name)}"
        for name in differing
        if not (name.startswith(_MAY_MOVE) and _has_moved(before.get(name), now.get(name)))
    ]
    if changes:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ConfigurationError(
            f"the run in {folder.path} cannot go on with other options than it was begun with: "
            f"{'; '.join(changes[:_SHOWN])}{more}. Leave them out, or give another --output."
        )
    return bool(differing)


def _has_moved(then: Any, now: Any) -> bool:
    """Whether two values of an option differ in nothing but where files are: absolute paths."""
    if isinstance(then, str) and isinstance(now, str):
        return then == now or (Path(then).is_absolute() and Path(now).is_absolute())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_has_moved, then, now))
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_has_moved(then[key], now[key]) for key in then)
    return bool(then == now)


def length_of(folder: RunFolder) -> Any:
    """Return the option ``data.num_frames`` of a run."""
    config = yaml.safe_load((folder.path / CONFIG).read_text(encoding="utf-8"))
    return _flat(config).get(_LENGTH)


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


def absolute_lora(given: Any) -> Any:
    """Return the option ``model.lora``, in any of its forms, with absolute paths."""
    if isinstance(given, list):
        return [absolute_lora(one) for one in given]
    if given is None or isinstance(given, str):
        return absolute(given)
    given["path"] = absolute(given["path"])
    return given


def absolute(path: Any) -> Any:
    """Return an option that names a file or folder that exists as an absolute path."""
    if not isinstance(path, str) or not Path(path).expanduser().exists():
        return path
    return str(Path(path).expanduser().absolute())
