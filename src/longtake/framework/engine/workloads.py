"""Workloads: requests as strategies, layouts and samplers see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import final

from longtake.framework.engine.conditioning import kept_frames
from longtake.framework.engine.prompt_schedule import prompt_changes
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.models import Sampler
from longtake.models.counting import NO_FLOPS, count_flops
from longtake.models.decoders.tiles import TileGrid, tile_grid
from longtake.plan.devices import Hardware
from longtake.plan.workload import Workload
from longtake.task import Task


@final
class Workloads:
    """Makes of a request what one model has to do for it: sizes, tasks, noise levels.

    Args:
        model: Makes the videos.
        hardware: What devices and links can do.
    """

    def __init__(self, model: ResolvedModel, hardware: Hardware) -> None:
        self.model = model
        self._hardware = hardware

    def of(self, request: Request) -> Workload:
        """Return a request as strategies see it, its operations not counted."""
        _, height, width = self.picture(request)
        model, generation_config = self.model, self.model.generation_config
        return Workload(
            spec=model.spec,
            scheduler=generation_config.scheduler,
            latent_frames=self.latent_frames(request),
            steps=model.settings.steps,
            cache=generation_config.cache,
            branches=len(model.guidance.branches),
            height=height,
            width=width,
            item_bytes=generation_config.torch_dtype.itemsize,
            flops=NO_FLOPS,
            hardware=self._hardware,
            tiles=len(self._tiles(height, width).tiles),
            prompt_changes=prompt_changes(request, model.spec.compression),
            known=self._known(request),
            reuses=model.reuse is not None,
        )

    def counted(self, workload: Workload) -> Workload:
        """Return a workload with its operations counted. Takes about a second."""
        if workload.flops != NO_FLOPS:
            return workload
        model, height, width = self.model, workload.height, workload.width
        tiles = self._tiles(height, width)
        flops = count_flops(model.blank, height, width, model.count_weights(), tiles.largest)
        return replace(workload, flops=replace(flops, decode=flops.decode * tiles.overhead))

    def latent_frames(self, request: Request) -> int | None:
        """Return a video's length in latent frames; ``None`` for an endless one."""
        if request.num_frames is None:
            return None
        return self.model.spec.compression.latent_frames(request.num_frames)

    def picture(self, request: Request) -> tuple[int, int, int]:
        """Return the latent channels, height and width of a request."""
        spec = self.model.spec
        spatial = spec.compression.spatial
        return spec.channels, request.height // spatial, request.width // spatial

    def _known(self, request: Request) -> int:
        """Return how many known latent frames the schedule makes copies of."""
        if request.start is None or not self.copies_known_frames:
            return 0
        spec = self.model.spec
        return spec.compression.latent_frames(kept_frames(request, spec))

    @property
    def copies_known_frames(self) -> bool:
        """Whether blocks are copies of known frames, instead of these being held in their place."""
        return self.model.generation_config.scheduler.known_frames == "copied"

    def tasks(self, request: Request) -> Iterator[Task]:
        """Return the schedule of a request, in serial order."""
        return self.of(request).tasks()

    def blocks(self, request: Request) -> int | None:
        """Return how many blocks a video has; ``None`` for an endless one."""
        latent_frames = self.latent_frames(request)
        if latent_frames is None:
            return None
        return sum(1 for _ in self.model.generation_config.scheduler.blocks(latent_frames))

    def forwards(self, request: Request) -> int | None:
        """Return how many forwards a video takes; ``None`` for an endless one."""
        if request.num_frames is None:
            return None
        return sum(1 for _ in self.of(request).forwards())

    def block_frames(self, request: Request, block: int) -> int:
        """Return how many latent frames a block has."""
        scheduler = self.model.generation_config.scheduler
        blocks = scheduler.blocks(self.latent_frames(request))
        return len(next(islice(blocks, block, None)))

    def sampler(self, request: Request) -> Sampler:
        """Return the noise levels of a request."""
        return self.model.sampler(self._tokens_of_clip(request))

    def sampler_name(self, request: Request) -> str:
        """Return the name of a request's sampler."""
        return self.model.sampler_name(self.sampler(request))

    def flow_shift(self, request: Request) -> float | None:
        """Return by how much a request's noise levels are shifted; ``None``: no such thing."""
        return self.model.flow_shift(self._tokens_of_clip(request))

    def _tokens_of_clip(self, request: Request) -> int:
        """Return the video tokens that a model shifts its noise levels by.

        Of a video that is one block, those of all its frames, as in a pipeline. Of a queue, those
        of a clip of the training, or of the whole video where it is shorter: no window is longer,
        and the levels depend neither on the blocks nor on their number.
        """
        workload, native = self.of(request), self.model.spec.native_frames
        frames = native if workload.latent_frames is None else min(workload.latent_frames, native)
        first = next(iter(workload.scheduler.blocks(workload.latent_frames)))
        if workload.latent_frames == first.stop:
            frames = first.stop
        return frames * workload.tokens_per_frame

    def _tiles(self, height: int, width: int) -> TileGrid:
        """Return how the VAE's pictures of a latent size are cut: not at all by default."""
        compression = self.model.spec.compression
        tile = self.model.generation_config.vae_tile
        if tile is None:
            return TileGrid(height, width, max(height, width), compression.spatial)
        return tile_grid(height, width, tile, compression)


def longest(requests: Sequence[Request]) -> Request:
    """Return the request that keeps the most devices busy: the longest one, then the largest."""

    def size(request: Request) -> tuple[float, int]:
        frames = float("inf") if request.num_frames is None else request.num_frames
        return frames, request.height * request.width

    return max(requests, key=size)
