"""Latent writer: each finished block's latents in the journal of its request."""

from __future__ import annotations

from typing import final

import lightning.pytorch as pl
from typing_extensions import override

from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.engine.events import ExitReason, RequestEnded, RequestStarted
from longtake.framework.engine.extension import saved_in
from longtake.framework.engine.journal import Journal, KeepLatents
from longtake.framework.engine.keeper import RunKeeper
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.timings import Timings
from longtake.strategies import BlockDone


@final
class LatentWriter(VideoHooks):
    """Writes ``latents/<block>.safetensors`` of a request as its blocks finish.

    Each file holds one tensor ``latents``, ``(1, C, F, H, W)`` fp32, and its latent frames
    ``start:stop`` in the metadata; it has a temporary name until it is whole. What a run needs to
    go on is there as long as the request is not finished. Goes after the report writer: what is
    removed is not missed by a run that dies in between.

    Args:
        folder: The run's folder.
        timings: Gets the seconds of part ``write``.
        keep: Which blocks' latents stay when the request is finished.
        keeper: The run's; left out: one of a run that has not been extended.
    """

    def __init__(
        self,
        folder: RunFolder,
        timings: Timings | None = None,
        *,
        keep: KeepLatents = "all",
        keeper: RunKeeper | None = None,
    ) -> None:
        self._folder = folder
        self._keeper = keeper or RunKeeper(folder)
        self._timings = timings or Timings()
        self._keep = keep
        self._journal: Journal | None = None

    @override
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Open the request's journal."""
        self._folder.request_folder(event.request.index)
        self._journal = Journal(saved_in(self._folder, event.request))

    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Write the block's latents."""
        assert self._journal is not None
        with self._timings.part("write"):
            self._journal.append(event.block, event.frames, event.latents)

    @override
    def on_request_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestEnded
    ) -> None:
        """Remove what need not be kept of a request that is finished, and reported as such."""
        if self._journal is not None and event.reason is ExitReason.FINISHED:
            with self._timings.part("write"):
                self._keeper.finish(event.request, self._keep)
