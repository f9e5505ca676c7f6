"""Kept video: what a finished video is, byte for byte, and whether its file still is that."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import av

_BOX: Final = struct.Struct(">I4s")
_HEADER: Final = (b"ftyp", b"moov")
_FRAGMENT: Final = (b"moof", b"mdat")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVideo:
    """The whole of an MP4 file, or of a folder of pictures, as a finished run has left it.

    Args:
        frames: Video frames in it.
        bytes: Of the file, or of all pictures.
        fragments: Of the file.
        checksum: Of these bytes.
    """

    frames: int
    bytes: int
    fragments: int
    checksum: str

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Return what a file holds; ``None``: it is no whole file of ``Mp4Writer``."""
        try:
            with path.open("rb") as file:
                kinds = list(_boxes(file))
                file.seek(0)
                checksum = hashlib.file_digest(file, "blake2b").hexdigest()
            with av.open(str(path)) as container:
                frames = sum(1 for packet in container.demux(video=0) if packet.size)
        except (OSError, ValueError, av.error.FFmpegError):
            return None
        count = kinds.count(_FRAGMENT[0])
        if tuple(kinds) != _HEADER + count * _FRAGMENT:
            return None
        return cls(frames=frames, bytes=path.stat().st_size, fragments=count, checksum=checksum)

    @classmethod
    def of_pictures(cls, paths: Sequence[Path]) -> Self | None:
        """Return what a folder of pictures holds; ``None``: one of them is missing."""
        try:
            size = sum(path.stat().st_size for path in paths)
            return cls(frames=len(paths), bytes=size, fragments=0, checksum=checksum_of(paths))
        except OSError:
            return None

    def digest(self, descriptor: int) -> hashlib.blake2b | None:
        """Return the digest of these bytes in an open file; ``None``: it holds others."""
        digest, at = hashlib.blake2b(), 0
        while at < self.bytes:
            part = os.pread(descriptor, min(1 << 20, self.bytes - at), at)
            if not part:
                return None
            digest.update(part)
            at += len(part)
        return digest if digest.hexdigest() == self.checksum else None


def digest_of(paths: Iterable[Path]) -> hashlib.blake2b:
    """Return the digest of files, one after another, which are on the disk then.

    Raises:
        OSError: One is not there.
    """
    digest = hashlib.blake2b()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
            os.fsync(file.fileno())
    return digest


def checksum_of(paths: Iterable[Path]) -> str:
    """Return the checksum of files, one after another; see ``digest_of``."""
    return digest_of(paths).hexdigest()


def left_at(path: Path, checksum: str) -> dict[str, Any]:
    """Return what a report says of a finished video.

    Args:
        path: Its file, or its folder of pictures.
        checksum: Of all its bytes.
    """
    return {"name": path.name, "bytes": sum(_sizes(path)), "checksum": checksum}


def became_of(folder: Path, left: Mapping[str, Any]) -> str | None:
    """Return what somebody has done to a finished video, in a word; ``None``: nothing.

    Pictures are looked at by their sizes alone: they may be very many.

    Args:
        folder: Of the request.
        left: What its report says.
    """
    path = folder / left["name"]
    try:
        if sum(_sizes(path)) != left["bytes"]:
            return "changed" if path.is_file() or any(path.iterdir()) else "removed"
        if path.is_file() and checksum_of([path]) != left["checksum"]:
            return "changed"
    except OSError:
        return "removed"
    return None


def _sizes(path: Path) -> Iterator[int]:
    """Yield the bytes of a file, or of every picture in a folder."""
    for one in path.glob("frame_*.png") if path.is_dir() else [path]:
        yield one.stat().st_size


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """Yield the kinds of a file's boxes.

    Raises:
        ValueError: The last one is not whole.
    """
    at, end = 0, os.fstat(file.fileno()).st_size
    while at < end:
        file.seek(at)
        head = file.read(_BOX.size)
        if len(head) < _BOX.size:
            raise ValueError("a box without a head")
        size, kind = _BOX.unpack(head)
        at += size
        if size < _BOX.size or at > end:
            raise ValueError("a torn box")
        yield kind
