"""Kept video: what stays, byte for byte, of the file of a video that grows."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import av

_BOX: Final = struct.Struct(">I4s")
_HEADER: Final = (b"ftyp", b"moov")
_FRAGMENT: Final = (b"moof", b"mdat")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVideo:
    """The whole of an MP4 file as a finished run has left it.

    Args:
        frames: Video frames in it.
        bytes: Of the file.
        fragments: Of it.
        checksum: Of its bytes.
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
