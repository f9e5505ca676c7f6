"""PNG writer: a folder of files."""

from __future__ import annotations

from typing import final

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typing_extensions import override

from longtake.framework.engine.run_folder import temporary_name
from longtake.framework.writers.base import FrameWriter, Picture
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
    """

    @override
    def open(self) -> None:
        """Make the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame."""
        path = self.path / picture_name(self.frames)
        temporary = temporary_name(path)
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=self._info())
        temporary.replace(path)
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
        """Do nothing: every file is finished already."""
