"""Journal of a request: the latents of its finished blocks, which only ever gain a block."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

import torch
from torch import Tensor

from longtake.errors import OutputError
from longtake.framework.engine.checked_file import (
    DamagedFile,
    facts_of,
    load_checked,
    save_checked,
)
from longtake.task import FrameRange

KeepLatents: TypeAlias = Literal["all", "tail", "none"]
"""Which blocks' latents stay when a request is finished."""
TAIL: Final = 8
"""Latent frames at a video's end whose blocks ``tail`` keeps: as many as a longer video that
begins with them sees of it by default."""
_NAME: Final = re.compile(r"(\d{5,})\.safetensors")


@final
class Journal:
    """Finished blocks on the disk, one checked file each: ``latents/<block>.safetensors``.

    While a request goes on, all of them are kept: a run that goes on later decodes them anew. They
    take about as much room as the video itself.

    Args:
        folder: Of the request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "latents"

    def append(self, block: int, frames: FrameRange, latents: Tensor) -> None:
        """Write a block; it counts as finished when this returns.

        Args:
            block: Index of the block.
            frames: Its latent frames.
            latents: ``(1, C, F, H, W)`` on any device.

        Raises:
            OutputError: The disk refuses.
        """
        facts = {"block": block, "frames": str(frames)}
        save_checked(self._path(block), {"latents": latents.cpu().contiguous()}, facts)

    def read(self, block: int, frames: FrameRange) -> Tensor:
        """Return a block's latents ``(1, C, F, H, W)`` on the CPU.

        Raises:
            DamagedFile: They are not there, or not what was written.
        """
        path = self._path(block)
        tensors, facts = load_checked(path)
        if facts["frames"] != str(frames):
            raise DamagedFile(f"{path} holds latent frames {facts['frames']}, not {frames}.")
        return tensors["latents"]

    def blocks(self) -> list[int]:
        """Return the blocks that are there, in order, unchecked."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def size(self) -> int:
        """Return the bytes of the blocks that are there."""
        return sum(self._path(block).stat().st_size for block in self.blocks())

    def forget_others(self, stay: Set[int]) -> None:
        """Remove all blocks but some."""
        for block in set(self.blocks()) - stay:
            self._path(block).unlink(missing_ok=True)

    def frames(self, block: int) -> FrameRange:
        """Return a block's latent frames.

        Raises:
            DamagedFile: It is not there.
        """
        start, stop = facts_of(self._path(block))["frames"].split(":")
        return FrameRange(int(start), int(stop))

    def tail(self, frames: int) -> Tensor:
        """Return the last latent frames ``(1, C, F, H, W)`` on the CPU.

        Raises:
            DamagedFile: So many are not there, one after another.
        """
        parts: list[Tensor] = []
        first: int | None = None
        for block in reversed(self.blocks()):
            found = self.frames(block)
            if sum(part.shape[2] for part in parts) >= frames or first not in (None, found.stop):
                break
            parts.insert(0, self.read(block, found))
            first = found.start
        if sum(part.shape[2] for part in parts) < frames:
            raise DamagedFile(f"{self.folder} has not the last {frames} latent frames.")
        return torch.cat(parts, dim=2)[:, :, -frames:]

    def join(self, part: Journal, *, first_block: int, seen: int, shift: int) -> None:
        """Take over the new blocks of a part by which the video has grown; the part's own go.

        What a process that died has taken over is taken over again.

        Args:
            part: Its journal.
            first_block: What the part's block 0 is called here.
            seen: Latent frames at the part's beginning that are here already.
            shift: What the part's latent frame 0 is called here.
        """
        for block in part.blocks():
            frames = part.frames(block)
            if frames.stop > seen:
                new = FrameRange(max(frames.start, seen), frames.stop)
                latents = part.read(block, frames)[:, :, new.within(frames)]
                here = FrameRange(new.start + shift, new.stop + shift)
                self.append(first_block + block, here, latents)
        part.finish("none")

    def finish(self, keep: KeepLatents) -> None:
        """Remove what need not be kept of a finished request.

        Raises:
            OutputError: The disk refuses.
        """
        if keep == "all":
            return
        blocks = self.blocks()
        frames = 0
        while keep == "tail" and blocks and frames < TAIL:
            frames += load_checked(self._path(blocks.pop()))[0]["latents"].shape[2]
        try:
            for block in blocks:
                self._path(block).unlink()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise OutputError(f"Cannot remove from {self.folder}: {error.strerror}.") from error

    def _path(self, block: int) -> Path:
        return self.folder / f"{block:05d}.safetensors"
