"""Workload: what is known of a request before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longtake.caches import FeatureCache, Forward, forwards
from longtake.models import BackboneSpec
from longtake.models.flops import Flops
from longtake.plan.devices import Hardware
from longtake.schedulers import BlockScheduler
from longtake.task import Task, Video


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that a strategy may base its layout on, and a simulation needs.

    Args:
        spec: Of the backbone.
        scheduler: Cuts and orders.
        latent_frames: Length of the video in latent frames; ``None`` for an endless one.
        steps: Denoising steps of each block.
        cache: How tasks see their neighbors.
        branches: Guidance branches: 1, or 2 with guidance.
        height: Latent height ``H``.
        width: Latent width ``W``.
        item_bytes: Bytes of one number of the hidden states.
        flops: Floating-point operations of the model's parts.
        hardware: What the devices and the links between them can do.
        layer_bytes: Of one layer's weights; 0 where that is not known.
        requests: How many such videos are made, one after another.
        tiles: In which a picture is decoded.
        prompt_changes: Latent frames from which on the video has another prompt.
        known: Latent frames at its beginning that are known before it is made.
        reuses: Whether layers may be reused, so that more is kept and sent; what is saved only a
            run can know.
    """

    spec: BackboneSpec
    scheduler: BlockScheduler
    latent_frames: int | None
    steps: int
    cache: FeatureCache
    branches: int
    height: int
    width: int
    item_bytes: int
    flops: Flops
    hardware: Hardware
    layer_bytes: float = 0.0
    requests: int = 1
    tiles: int = 1
    prompt_changes: tuple[int, ...] = ()
    known: int = 0
    reuses: bool = False

    @property
    def video(self) -> Video:
        """What the schedule is made for."""
        return Video(self.latent_frames, self.steps, self.prompt_changes, self.known)

    def tasks(self) -> Iterator[Task]:
        """Return the schedule anew, in serial order."""
        return self.scheduler.tasks(self.video)

    def forwards(self) -> Iterator[Forward]:
        """Return the schedule anew, with what the cache makes of it."""
        return forwards(self.tasks(), self.cache)

    @property
    def blocks_in_flight(self) -> int:
        """The largest number of blocks that are between their first and last step at once."""
        return self.scheduler.blocks_in_flight(self.video)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.spec.tokens_per_frame(self.height, self.width)

    @property
    def decode_seconds(self) -> float:
        """Seconds that one device takes to decode a latent frame."""
        flops, hardware = self.flops, self.hardware
        convolved = (flops.decode + hardware.half_channels * flops.thin) / hardware.convolution
        unfolded = flops.unfolded / hardware.unfolding
        return convolved + unfolded + flops.decode_moved / hardware.decoder_passes

    def window_tokens(self, frames: int) -> int:
        """Return the tokens that pass through the layers with so many latent frames: text too."""
        return frames * self.tokens_per_frame + self.spec.text_tokens
