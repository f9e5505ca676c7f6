"""Video writer callback: the file that grows while the video is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, final

import lightning.pytorch as pl
from av.error import FFmpegError
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError, OutputError
from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.engine.events import ExitReason, FramesDecoded, RequestEnded, RequestStarted
from longtake.framework.engine.kept_video import KeptVideo, left_at
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.timings import Timings
from longtake.framework.engine.worker import Job, Worker
from longtake.framework.writers import CRF, FrameWriter, VideoFormat, VideoShape, frame_writer
from longtake.framework.writers.formats import kept_video
from longtake.framework.writers.label import label
from longtake.strategies import TaskDone

DISK_ERRORS: Final = (OSError, FFmpegError)
WORST_CRF: Final = 51
MAX_PIXELS: Final = 16383
MAX_GIF_FPS: Final = 100
_MOST: Final = 16
"""Latent frames' worth of video that may wait to be written, and what else is done behind them."""


@final
class VideoWriter(VideoHooks):
    """Writes each request's video frames as they are decoded, in constant memory.

    Colors are converted, and the file is written, in a thread beside the run, which waits for it
    only where it is far behind, and at the video's end.

    Args:
        format: ``mp4`` (H.264, plays while it grows and after a crash), ``gif``, ``webp``, or
            ``png`` for a folder of single pictures.
        zoom: Shows each pixel as ``zoom x zoom`` pixels, for small videos.
        crf: Quality of ``mp4``: 1 is the best, 51 the worst, 18 looks like the original; 0 is
            taken for 1, since few players show lossless H.264.
        label: Whether files say of themselves that they are machine-made, with model and seed.

    Raises:
        ConfigurationError: ``zoom`` or ``crf`` is out of range.
    """

    def __init__(
        self, format: VideoFormat = "mp4", zoom: int = 1, crf: int = CRF, label: bool = True
    ) -> None:
        if zoom < 1:
            raise ConfigurationError(f"video.zoom is {zoom}; it is at least 1.")
        if not 0 <= crf <= WORST_CRF:
            raise ConfigurationError(f"video.crf is {crf}; it is from 0 to {WORST_CRF}.")
        self._format = format
        self._zoom = zoom
        self._crf = crf
        self._label = label
        self._model = ""
        self._folder: RunFolder | None = None
        self._new: RunFolder | None = None
        """The folder, where this writer is to make it."""
        self._timings = Timings()
        self._request: Request | None = None
        self._writer: FrameWriter | None = None
        self._worker: Worker | None = None
        self._unflushed = False
        self._goes_on = False
        self._kept: Mapping[int, KeptVideo] = {}
        self._known = 0
        self._last: FrameWriter | None = None

    @property
    def there(self) -> int:
        """Video frames of the last request that are in its file, as far as is known."""
        return 0 if self._last is None else self._last.there

    @property
    def left(self) -> Mapping[str, Any] | None:
        """What the last request has left, once it is finished; see ``left_at``."""
        if self._last is None or self._last.checksum is None:
            return None
        return left_at(self._last.path, self._last.checksum)

    def check(self, request: Request) -> None:
        """Refuse what the format cannot hold, before anything is made.

        Raises:
            ConfigurationError: The picture is too large, or too fast for GIF.
        """
        largest = max(request.height, request.width) * self._zoom
        if self._format != "png" and largest > MAX_PIXELS:
            raise ConfigurationError(
                f"the video would be {largest} pixels on its longer side, but {self._format} holds "
                f"at most {MAX_PIXELS}; use a smaller size or video.zoom, or video.format png."
            )
        if self._format == "gif" and request.fps > MAX_GIF_FPS:
            raise ConfigurationError(
                f"data.fps is {request.fps}, but GIF counts time in hundredths of a second; choose "
                f"at most {MAX_GIF_FPS}."
            )

    def kept(self, folder: Path, frames: int, checksum: str) -> KeptVideo:
        """Return what stays of a finished video that is to grow.

        Args:
            folder: Of the request.
            frames: Video frames that are in it.
            checksum: Of the video as the run has left it.

        Raises:
            ConfigurationError: Files of the format cannot grow.
            OutputError: Somebody has removed or changed it.
        """
        if self._format not in ("mp4", "png"):
            raise ConfigurationError(
                f"video.format is {self._format}, files of which cannot grow when they are "
                f"finished; mp4 and png can."
            )
        kept = kept_video(self._format, folder, frames)
        if kept is None or kept.checksum != checksum:
            raise OutputError(
                f"the {self._format} video in {folder} cannot grow: it is not the one of {frames} "
                f"video frames that the run has left there. Bring it back, or begin a new "
                f"run."
            )
        return kept

    def bind(
        self,
        folder: RunFolder,
        timings: Timings,
        model: str = "",
        *,
        goes_on: bool = False,
        kept: Mapping[int, KeptVideo] | None = None,
    ) -> Self:
        """Say where to write, before the run. The options come from YAML, these do not.

        Args:
            folder: The run's folder.
            timings: Gets the seconds of part ``write``.
            model: What files call the model.
            goes_on: Whether files that are there are gone on with.
            kept: What stays of the files of requests that grow.
        """
        self._model = model
        self._kept = kept or {}
        self._goes_on = goes_on
        self._folder = folder
        self._timings = timings
        return self

    def to(self, folder: str | Path, *, overwrite: bool = False) -> Self:
        """Say where to write, in a script: ``VideoWriter().to("out/birds")``.

        Args:
            folder: Made when the run begins; each request gets a numbered folder in it.
            overwrite: Whether an earlier run there may be replaced.
        """
        self._folder = self._new = RunFolder(folder, overwrite=overwrite)
        return self

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder, before weights are read; on the rank that the video comes out of."""
        if not trainer.is_global_zero:
            return
        if self._folder is None:
            raise ConfigurationError(
                'the VideoWriter has no folder to write to: VideoWriter().to("out/birds").'
            )
        if self._new is not None:
            self._new.create()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the folder to others."""
        if self._new is not None:
            self._new.release()

    def after_frames(self, job: Job) -> None:
        """Do something as soon as all video frames so far are in the file.

        Args:
            job: What. Errors of it end the run.
        """
        if self._worker is None:
            job()
            return
        with self._refusals():
            self._worker.give(job)

    @override
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Remember the request. The file begins with the first video frames."""
        self._request, self._last = event.request, None
        self._known = 0 if event.request.growth is None else event.request.growth.known

    @override
    def on_frames(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: FramesDecoded
    ) -> None:
        """Have the video frames written, but for those that are there already."""
        frames = event.frames[self._known :]
        self._known -= len(event.frames) - len(frames)
        if not len(frames):
            return
        with self._refusals():
            if self._writer is None:
                with self._timings.part("write"):
                    self._writer = self._last = self._open(frames)
                self._worker = Worker("longtake-write", _MOST)
            assert self._worker is not None
            self._worker.give(self._timed(partial(self._writer.write, frames)))
        self._unflushed = True

    @override
    def on_task_end(self, trainer: pl.Trainer, module: pl.LightningModule, event: TaskDone) -> None:
        """Have the file soon hold all that is decoded: should the run die, it plays that far."""
        if self._writer is not None and self._unflushed:
            self.after_frames(self._timed(self._writer.flush))
            self._unflushed = False

    @override
    def on_request_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestEnded
    ) -> None:
        """Finish the file, whatever ended the request."""
        self._request = None
        if event.reason is ExitReason.FAILED:
            self._abandon()  # the error that ended the request is the one to show
            return
        with self._refusals():
            if self._worker is not None:
                self._worker.wait()
            with self._timings.part("write"):
                self._close()

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Finish the file, should an error have come between.

        A second Ctrl-C is no error: what waits to be written is forgotten, as a kill would do it.
        """
        if isinstance(exception, KeyboardInterrupt) and self._worker is not None:
            self._worker.drop()
            self._worker = self._writer = None
        else:
            self._abandon()

    def _open(self, frames: Tensor) -> FrameWriter:
        if self._folder is None or self._request is None:
            raise RuntimeError("VideoWriter needs bind(folder, timings) and a started request")
        _, height, width, _ = frames.shape
        video = VideoShape(height=height, width=width, fps=self._request.fps, zoom=self._zoom)
        folder = self._folder.request_folder(self._request.index)
        said = label(self._model, self._request.seed) if self._label else ""
        writer = frame_writer(
            self._format,
            folder,
            video,
            crf=self._crf,
            label=said,
            goes_on=self._goes_on,
            kept=self._kept.get(self._request.index),
        )
        writer.open()
        return writer

    def _timed(self, job: Job) -> Job:
        def timed() -> None:
            with self._timings.part("write"):
                job()

        return timed

    def _close(self) -> None:
        writer = self._end()
        if writer is not None:
            writer.close()

    def _abandon(self) -> None:
        """Close the file as far as possible, behind the frames that it has been given."""
        writer = self._end()
        if writer is not None:
            with suppress(*DISK_ERRORS):
                writer.abandon()

    def _end(self) -> FrameWriter | None:
        """End the thread; return the writer, which nobody else uses any more.

        Should a signal interrupt the wait, the thread still uses it: then it is nobody's to close.
        """
        worker, self._worker = self._worker, None
        writer, self._writer = self._writer, None
        self._unflushed = False
        if worker is not None:
            worker.close()
        return writer

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Say in one sentence what the disk refuses."""
        try:
            yield
        except DISK_ERRORS as error:
            self._abandon()
            folder = None if self._folder is None else self._folder.path
            why = error.strerror or str(error)
            raise OutputError(f"Cannot write the video in {folder}: {why}.") from error
