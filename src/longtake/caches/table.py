"""Feature table: where the kept keys and values of every latent frame are in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import final

from longtake.caches.base import Entry, Read, Window
from longtake.caches.store import Chunk


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of a chunk that are read together.

    Args:
        chunk: Of which chunk.
        tokens: This rank's tokens in it.
        shift: By how many latent frames their keys are moved along time.
    """

    chunk: Chunk
    tokens: slice
    shift: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A chunk that goes after a layer's attention.

    Args:
        chunk: Which one.
        rest: This rank's tokens of it that stay.
    """

    chunk: Chunk
    rest: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a frame's tokens are: in a chunk, from where on, how many each ring rank has."""

    chunk: Chunk
    start: int
    parts: tuple[int, ...]


@final
class FeatureTable:
    """Follows the windows of a request, one after another; the same for every layer.

    Args:
        ring_index: Which of the ranks that share the keys this one is.
    """

    def __init__(self, ring_index: int = 0) -> None:
        self._ring_index = ring_index
        self._frames: dict[Entry, _Frame] = {}

    def pieces(self, reads: Sequence[Read]) -> list[Piece]:
        """Return what of the store is read, in the order of the keys.

        Raises:
            KeyError: An entry is not held.
        """
        found: list[Piece] = []
        for read in reads:
            at, shift = self._frames[read.entry], read.position - read.entry.frame
            stop = at.start + at.parts[self._ring_index]
            last = found[-1] if found else None
            if last is not None and (last.chunk, last.tokens.stop, last.shift) == (
                at.chunk,
                at.start,
                shift,
            ):
                found[-1] = Piece(at.chunk, slice(last.tokens.start, stop), shift)
            else:
                found.append(Piece(at.chunk, slice(at.start, stop), shift))
        return found

    def parts(self, reads: Sequence[Read]) -> list[tuple[int, ...]]:
        """Return, for each entry that is read, how many of its tokens each ring rank has."""
        return [self._frames[read.entry].parts for read in reads]

    def held(self) -> dict[Entry, tuple[Chunk, slice]]:
        """Return which of a chunk's tokens are an entry's on this rank, for all that are held."""
        return {
            entry: (at.chunk, slice(at.start, at.start + at.parts[self._ring_index]))
            for entry, at in self._frames.items()
        }

    def counts(self, entry: Entry) -> tuple[int, ...]:
        """Return how many tokens of an entry each ring rank has."""
        return self._frames[entry].parts

    def put(self, entry: Entry, chunk: Chunk, counts: Sequence[int]) -> None:
        """Remember an entry that is alone in its chunk.

        Args:
            entry: Which one.
            chunk: Where it is.
            counts: How many of its tokens each ring rank has.
        """
        self._frames[entry] = _Frame(chunk, 0, tuple(counts))

    def drop(self, window: Window) -> list[Drop]:
        """Forget the entries that a window drops; return what goes from the store."""
        gone = {entry: self._frames.pop(entry) for entry in window.drops}
        drops = []
        for chunk in dict.fromkeys(at.chunk for at in gone.values()):
            stay = [(entry, at) for entry, at in self._frames.items() if at.chunk == chunk]
            drops.append(Drop(chunk, tuple(self._move_up(stay))))
        return drops

    def keep(self, window: Window, parts: Sequence[Sequence[int]]) -> list[tuple[Chunk, list[int]]]:
        """Remember what a window keeps; return its chunks, each with the numbers of its frames.

        Args:
            window: Which one.
            parts: For each of the window's frames, how many of its tokens each ring rank has.
        """
        where = {frame: number for number, frame in enumerate(window.frames)}
        chunks = []
        by_reader = sorted(window.keeps, key=lambda keep: _reader(keep[1].reader))
        for part, (_, keeps) in enumerate(groupby(by_reader, lambda keep: keep[1].reader)):
            start, numbers = 0, []
            for entry, _kept in keeps:
                chunk, counts = Chunk(entry.index, part), tuple(parts[where[entry.frame]])
                self._frames[entry] = _Frame(chunk, start, counts)
                start += counts[self._ring_index]
                numbers.append(where[entry.frame])
            chunks.append((chunk, numbers))
        return chunks

    def _move_up(self, stay: Sequence[tuple[Entry, _Frame]]) -> list[slice]:
        """Close the gaps in a chunk; return the tokens that stay, as they are numbered now."""
        slices, start = [], 0
        for entry, at in stay:
            count = at.parts[self._ring_index]
            slices.append(slice(at.start, at.start + count))
            self._frames[entry] = _Frame(at.chunk, start, at.parts)
            start += count
        return slices


def _reader(reader: int | None) -> tuple[bool, int]:
    return reader is None, reader or 0
