"""PNG writer: a folder of files."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path
from typing import final

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typing_extensions import override

from longtake.framework.engine.kept_video import KeptVideo, digest_of
from longtake.framework.engine.run_folder import temporary_name
from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.label import xmp


def picture_name(frame: int) -> str:
    """Return the name of a video frame's file."""
    return f"frame_{frame:06d}.png"


@final
class PngWriter(FrameWriter):
    """Writes ``frame_000000.png``, ``frame_000001.png``, ...: exact pixels, in constant memory.

    Each file has a temporary name until it is whole.

    Args:
        path: The folder; made where it does not exist.
        video: What the video frames are like.
        label: Text and XMP in each file.
        kept: What stays of a video that grows.
    """

    def __init__(
        self, path: Path, video: VideoShape, *, label: str = "", kept: KeptVideo | None = None
    ) -> None:
        super().__init__(path, video, label=label, first=0 if kept is None else kept.frames)
        self._kept = kept
        self._digest = hashlib.blake2b()

    @override
    def open(self) -> None:
        """Make the folder, or look whether what is to grow is in it.

        Raises:
            OSError: It is not.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self._kept is not None:
            self._digest = digest_of(self._paths())
            if self._digest.hexdigest() != self._kept.checksum:
                raise OSError(errno.EIO, f"what is in {self.path.name} is not what is to grow")

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame."""
        path = self.path / picture_name(self.frames)
        temporary, content = temporary_name(path), io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG", pnginfo=self._info())
        temporary.write_bytes(content.getbuffer())
        temporary.replace(path)
        self._digest.update(content.getbuffer())
        self.there = self.frames + 1

    def _info(self) -> PngInfo | None:
        if not self.label:
            return None
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(self.label).decode())
        info.add_text("Comment", self.label)
        return info

    @override
    def close(self) -> None:
        """Have all files on the disk, and see that nobody has removed or changed one.

        Raises:
            OSError: Somebody has.
        """
        if digest_of(self._paths()).digest() != self._digest.digest():
            raise OSError(errno.EIO, f"a file in {self.path.name} was changed meanwhile")
        self.checksum = self._digest.hexdigest()

    @override
    def abandon(self) -> None:
        """Do nothing: every file is finished already."""

    def _paths(self) -> list[Path]:
        return [self.path / picture_name(number) for number in range(self.frames)]
