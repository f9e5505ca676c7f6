"""Snapshot files of a request: what every rank held at a cut, one checked file per rank."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias, final, get_args

from torch import Tensor
from typing_extensions import override

from longtake.errors import OutputError
from longtake.framework.engine.checked_file import (
    DamagedFile,
    check,
    facts_of,
    names_of,
    read_tensor,
    save_checked,
)
from longtake.framework.engine.run_folder import replacing
from longtake.strategies.runtime.cuts import CutState

_NAME: Final = re.compile(r"\.?(\d{8,})-(\d{4,})\.safetensors(\.tmp)?")
FolderName: TypeAlias = Literal["snapshots", "kept"]
FOLDERS: Final[tuple[FolderName, ...]] = get_args(FolderName)
KEPT: Final = 2
"""Snapshots that stay: the last one, and the one before, should the last one be damaged."""


@final
class SnapshotFiles:
    """The folder ``snapshots`` of a request: ``<cut>-<rank>.safetensors``.

    A snapshot counts when the files of all its ranks are there, whole and unchanged.

    Args:
        folder: Of the request.
        name: Of the folder in it: ``kept`` for the one from which a longer video can be made.
    """

    def __init__(self, folder: Path, name: FolderName = "snapshots") -> None:
        self.folder = folder / name

    def save(self, state: CutState, rank: int, ranks: int) -> None:
        """Write what one rank held.

        Args:
            state: Its tensors on the CPU, none of which shares memory with another.
            rank: Which rank.
            ranks: How many save something at each cut.

        Raises:
            OutputError: The disk refuses.
        """
        facts = {"cut": state.index, "rank": rank, "ranks": ranks, "held": dict(state.facts)}
        save_checked(self._path(state.index, rank), state.tensors, facts)

    def cuts(self) -> list[int]:
        """Return the cuts of which all files are there, unchecked, in order."""
        return sorted(cut for cut in self._found() if self._is_complete(cut))

    def torn(self) -> Iterator[DamagedFile]:
        """Yield what is wrong with snapshots whose first file is there, and cannot be read."""
        for cut in sorted(self._found()):
            if (first := self._path(cut, 0)).exists():
                try:
                    facts_of(first)
                except DamagedFile as error:
                    yield error

    def check(self, cut: int) -> None:
        """Read all of a snapshot.

        Raises:
            DamagedFile: It is not what was written.
        """
        for path in self._paths(cut):
            check(path)

    def load(self, cut: int) -> CutState:
        """Return what all ranks held at a cut; tensors are read when they are asked for.

        Raises:
            DamagedFile: It is not there.
        """
        facts: dict[str, object] = {}
        where: dict[str, Path] = {}
        for path in self._paths(cut):
            facts.update(facts_of(path)["held"])
            where.update(dict.fromkeys(names_of(path), path))
        return CutState(index=cut, tensors=_Tensors(where), facts=facts)

    def link(self, cut: int, rank: int, into: SnapshotFiles) -> None:
        """Have what one rank held at a cut stay elsewhere as well; it takes no further room.

        Raises:
            OutputError: The disk refuses.
        """
        path = into._path(cut, rank)
        try:
            into.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                os.link(self._path(cut, rank), temporary)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror}.") from error

    def link_all(self, cut: int, into: SnapshotFiles) -> None:
        """Have what all ranks held at a cut stay elsewhere as well; see ``link``."""
        for rank in range(len(self._paths(cut))):
            self.link(cut, rank, into)

    def prune(self, last: int = KEPT) -> None:
        """Remove all but the last snapshots.

        Args:
            last: How many stay.
        """
        complete = self.cuts()
        if len(complete) >= last:
            self._remove(cut for cut in self._found() if cut < complete[-last])

    def forget_after(self, cut: int) -> None:
        """Remove what was saved after a cut from which the request goes on."""
        self._remove(found for found in self._found() if found > cut)

    def clear(self) -> None:
        """Remove everything."""
        self._remove(self._found())
        with suppress(OSError):  # not there, or something of somebody else's is in it
            self.folder.rmdir()

    def _found(self) -> set[int]:
        if not self.folder.is_dir():
            return set()
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return {int(name[1]) for name in names if name}

    def _is_complete(self, cut: int) -> bool:
        try:
            self._paths(cut)
        except DamagedFile:
            return False
        return True

    def _paths(self, cut: int) -> list[Path]:
        first = self._path(cut, 0)
        paths = [self._path(cut, rank) for rank in range(facts_of(first)["ranks"])]
        for path in paths:
            if not path.exists():
                raise DamagedFile(f"{path} is missing.")
        return paths

    def _path(self, cut: int, rank: int) -> Path:
        return self.folder / f"{cut:08d}-{rank:04d}.safetensors"

    def _remove(self, cuts: Iterator[int] | set[int]) -> None:
        gone = set(cuts)
        if not gone:
            return
        for path in list(self.folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name and int(name[1]) in gone:
                with suppress(OSError):
                    path.unlink()


@final
class _Tensors(Mapping[str, Tensor]):
    """Tensors in files, read when they are asked for."""

    def __init__(self, where: Mapping[str, Path]) -> None:
        self._where = where

    @override
    def __getitem__(self, name: str) -> Tensor:
        return read_tensor(self._where[name], name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    @override
    def __len__(self) -> int:
        return len(self._where)
