"""A callback of your own: the first frame of every request as a picture, as soon as it is there.

In YAML: ``trainer.callbacks: [{class_path: own_callback.Poster, init_args: {folder: out}}]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from PIL import Image
from typing_extensions import override

from longtake.api import FramesDecoded, LongtakeCallback, RequestStarted


@final
class Poster(LongtakeCallback):
    """Save the first frame of every request.

    Args:
        folder: Where pictures go, ``poster-0000.png`` for the first request.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._file: Path | None = None

    @override
    def on_request_start(self, trainer: Any, module: Any, event: RequestStarted) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"poster-{event.request.index:04d}.png"

    @override
    def on_frames(self, trainer: Any, module: Any, event: FramesDecoded) -> None:
        if self._file is not None:
            Image.fromarray(event.frames[0].numpy()).save(self._file)
            self._file = None
