"""Run folder: the folder that a run writes into."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

from longtake.errors import OutputError
from longtake.framework.engine.run_lock import LOCK, RunLock
from longtake.paths import expanded

CONFIG: Final = "config.yaml"
REPORT: Final = "report.json"
INPUTS: Final = "inputs.json"
EXTENSIONS: Final = "extensions.json"
"""How a finished run has grown, or grows."""
LAST_ACTIONS: Final = "last_actions.txt"
"""What every rank did when the run failed."""
MARK: Final = ".seen"
"""By which the ranks that write into the folder know it."""
CONFIG_HEADER: Final = "# The resolved configuration of a run of longtake"
"""First words of the config that longtake writes, by which it knows its own."""
_PART: Final = re.compile(r"report-\d+\.json")
CONFIG_FORMAT: Final = 1
"""Of ``config.yaml``, whose first line says it."""
_FORMAT: Final = re.compile(r", format (\d+)$")
_REQUEST: Final = re.compile(r"\d{4,}")
_FILES: Final = re.compile(r"\.?(video\.(mp4|gif|webp)|timeline\.(svg|txt))(\.tmp)?")
_UNNAMED: Final = r"\.tmp[0-9A-Za-z]{6}"
"""What safetensors calls a file until it is written, and a process that died at that leaves."""
_SNAPSHOTS: Final = re.compile(rf"\.?\d{{8,}}-\d{{4,}}\.safetensors(\.tmp)?|{_UNNAMED}")
_SAVED: Final = {
    "latents": re.compile(rf"\.?\d{{5,}}\.safetensors(\.tmp)?|{_UNNAMED}"),
    "snapshots": _SNAPSHOTS,
    "kept": _SNAPSHOTS,
}
"""Of a request, and of a part by which it grows."""
_UNFINISHED: Final = re.compile(rf"\..*\.tmp|{_UNNAMED}")
_SUBFOLDERS: Final = {
    "frames": re.compile(r"\.?frame_\d{6,}\.png(\.tmp)?"),
    **_SAVED,
    **{f"part/{name}": pattern for name, pattern in _SAVED.items()},
    "part": re.compile(r"(?!)"),
}


def temporary_name(path: Path) -> Path:
    """Return the hidden name beside ``path`` under which the file is made."""
    return path.with_name(f".{path.name}.tmp")


def commit(temporary: Path, path: Path) -> None:
    """Give a finished file its name. Readers see the whole file or none, also after a crash."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name; at the end of the ``with`` block the file there becomes ``path``.

    When the ``with`` block raises, ``path`` stays as it was and the temporary file is removed.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        commit(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@final
class RunFolder:
    """Where a run writes: its config, its report, and one numbered folder per request.

    Nothing touches the disk before ``create`` or ``reopen``; from then on no other run takes the
    folder, until ``release`` or the end of the process.

    Args:
        path: The folder. It may not exist yet.
        overwrite: Whether an earlier run there may be replaced. Only what longtake itself writes
            is removed, never another file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = expanded(path)
        self._overwrite = overwrite
        self._lock = RunLock(self.path)

    def check(self) -> None:
        """Refuse a folder that cannot be written to, before anything slow begins.

        Raises:
            OutputError: It is a file, not empty, not writable, or of a run that is going on.
        """
        try:
            self._check()
        except OSError as error:
            raise OutputError(f"--output {self.path}: {error.strerror}.") from error

    def _check(self) -> None:
        if self.path.is_symlink() and not self.path.exists():
            raise OutputError(f"--output {self.path} is a link to a folder that does not exist.")
        if not self.path.exists():
            self._check_parent()
            return
        if not self.path.is_dir():
            raise OutputError(f"--output {self.path} is a file; give a folder.")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise OutputError(f"--output {self.path} is not writable.")
        RunLock.check(self.path)
        # A run that died before it said what it is has left nothing that is worth a word.
        unsaid = {LOCK, INPUTS, *(temporary_name(Path(name)).name for name in (INPUTS, CONFIG))}
        if any(entry.name not in unsaid for entry in self.path.iterdir()):
            self._check_contents()

    def _check_parent(self) -> None:
        parent = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not parent.is_dir():
            raise OutputError(f"--output {self.path} lies in {parent}, which is a file.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"--output {self.path} lies in {parent}, which is not writable.")

    def _check_contents(self) -> None:
        if not self._overwrite:
            raise OutputError(
                f"--output {self.path} is not empty; give another folder, or replace the run in "
                "it with --overwrite true."
            )
        for folder in self._numbered():
            if folder.is_symlink():
                raise OutputError(f"{folder} is a link, which is not followed; remove it first.")
        config = self.path / CONFIG
        if config.exists() and not config.read_text(errors="replace").startswith(CONFIG_HEADER):
            raise OutputError(
                f"{config} was not written by longtake, so it may be yours and is not "
                "overwritten; give another folder, or remove it first."
            )

    def create(self) -> None:
        """Make the folder; remove the run that was there, where that is allowed.

        Raises:
            OutputError: As ``check``, or the disk refuses.
        """
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            parts = [part.name for part in self.report_parts()]
            for name in (CONFIG, REPORT, LAST_ACTIONS, INPUTS, EXTENSIONS, MARK, *parts):
                (self.path / name).unlink(missing_ok=True)
                temporary_name(self.path / name).unlink(missing_ok=True)
            for folder in self._numbered():
                _clear(folder)
        except OSError as error:
            raise OutputError(f"Cannot make --output {self.path}: {error.strerror}.") from error

    @property
    def holds_run(self) -> bool:
        """Whether a run of longtake has been begun here."""
        try:
            with (self.path / CONFIG).open(encoding="utf-8", errors="replace") as config:
                return config.read(len(CONFIG_HEADER)) == CONFIG_HEADER
        except OSError:
            return False

    def check_is_run(self) -> None:
        """Refuse a folder without a run, or with one of another format.

        Raises:
            OutputError: Says so.
        """
        if not self.holds_run:
            raise OutputError(
                f"there is no run of longtake to resume in {self.path}: it has no {CONFIG} that "
                f"begins with '{CONFIG_HEADER}'."
            )
        with (self.path / CONFIG).open(encoding="utf-8", errors="replace") as config:
            found = _FORMAT.search(config.readline().rstrip())
        if found is not None and int(found[1]) != CONFIG_FORMAT:
            raise OutputError(
                f"the run in {self.path} cannot be resumed: its {CONFIG} is of format {found[1]}, "
                f"and this version of longtake reads {CONFIG_FORMAT}; use the version that its "
                f"first line names."
            )

    def check_run(self) -> None:
        """Refuse a folder whose run cannot go on; writes nothing.

        Raises:
            OutputError: It holds no run, or one that is going on, or is not writable.
        """
        self.check_is_run()
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise OutputError(f"the run in {self.path} cannot be resumed: it is not writable.")
        RunLock.check(self.path)

    def reopen(self) -> None:
        """Take the folder of a run that is to go on, as it stands.

        Raises:
            OutputError: As ``check_run``.
        """
        self.check_run()
        self._lock.acquire()
        for folder in self._with_files():
            _remove_matching(folder, _UNFINISHED)

    def release(self) -> None:
        """Let other runs have the folder."""
        self._lock.release()

    def report_parts(self) -> list[Path]:
        """Return the reports of replicas that the first one's does not hold yet."""
        there = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(entry for entry in there if _PART.fullmatch(entry.name))

    def path_of(self, index: int) -> Path:
        """Return the folder of a request, which may not exist yet.

        Args:
            index: Number of the request in the run.
        """
        return self.path / f"{index:04d}"

    def request_folder(self, index: int) -> Path:
        """Return the folder of a request, which exists afterwards.

        Args:
            index: Number of the request in the run.

        Raises:
            OutputError: The disk refuses.
        """
        folder = self.path_of(index)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make {folder}: {error.strerror}.") from error
        return folder

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder, whole or not at all.

        Raises:
            OutputError: The disk refuses.
        """
        path = self.path / name
        try:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror}.") from error

    def _with_files(self) -> list[Path]:
        """Return the folders that are there in which longtake makes files."""
        requests = [folder for folder in self._numbered() if not folder.is_symlink()]
        inner = [folder / name for folder in requests for name in _SUBFOLDERS]
        return [self.path, *requests, *(folder for folder in inner if folder.is_dir())]

    def _numbered(self) -> list[Path]:
        """Return the request folders that are there, and links that are named like one."""
        return [
            entry
            for entry in sorted(self.path.iterdir())
            if _REQUEST.fullmatch(entry.name) and (entry.is_symlink() or entry.is_dir())
        ]


def _clear(folder: Path) -> None:
    """Remove what longtake writes into a request folder, and the folder if that empties it."""
    _remove_matching(folder, _FILES)
    for name, pattern in _SUBFOLDERS.items():
        subfolder = folder / name
        if subfolder.is_dir() and not subfolder.is_symlink():
            _remove_matching(subfolder, pattern)
            _remove_if_empty(subfolder)
    _remove_if_empty(folder)


def _remove_matching(folder: Path, pattern: re.Pattern[str]) -> None:
    for entry in list(folder.iterdir()):
        if pattern.fullmatch(entry.name) and (entry.is_symlink() or not entry.is_dir()):
            entry.unlink()


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
