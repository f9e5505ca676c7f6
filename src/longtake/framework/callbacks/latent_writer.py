"""Latent writer: each finished block's latents in a file of their own."""

from __future__ import annotations

from typing import Literal, final

import lightning.pytorch as pl
from safetensors import SafetensorError
from safetensors.torch import save_file
from typing_extensions import override

from longtake.errors import OutputError
from longtake.framework.callbacks.base import VideoHooks
from longtake.framework.engine.events import RequestStarted
from longtake.framework.engine.run_folder import RunFolder, replacing
from longtake.framework.engine.timings import Timings
from longtake.strategies import BlockDone


@final
class LatentWriter(VideoHooks):
    """Writes ``latents/<block>.safetensors`` of a request as its blocks finish.

    Each file holds one tensor ``latents``, ``(1, C, F, H, W)`` fp32, and its latent frames
    ``start:stop`` in the metadata; it has a temporary name until it is whole.

    Args:
        folder: The run's folder.
        timings: Gets the seconds of part ``write``.
        keep: Which blocks' latents are written.
    """

    def __init__(
        self,
        folder: RunFolder,
        timings: Timings | None = None,
        *,
        keep: Literal["all", "none"] = "all",
    ) -> None:
        self._folder = folder
        self._timings = timings or Timings()
        self._keep = keep
        self._request = 0

    @override
    def on_request_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: RequestStarted
    ) -> None:
        """Remember the request."""
        self._request = event.request.index

    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Write the block's latents."""
        if self._keep == "none":
            return
        with self._timings.part("write"):
            self._write(event)

    def _write(self, event: BlockDone) -> None:
        path = self._folder.request_folder(self._request) / "latents"
        path = path / f"{event.block:05d}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                save_file(
                    {"latents": event.latents.cpu().contiguous()},
                    temporary,
                    metadata={"frames": str(event.frames)},
                )
        except (OSError, SafetensorError) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error
