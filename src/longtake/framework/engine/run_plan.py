"""RunPlan: what a run will do, settled from configuration files before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import final

import torch

from longtake.errors import ConfigurationError, ModelError, NoPlan
from longtake.framework.engine.conditioning import check_start
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.preflight import (
    TRANSFORMERS,
    check_guidance,
    check_loras,
    check_memory,
    check_request,
    check_schedule,
    naming,
)
from longtake.framework.engine.request import Request
from longtake.framework.engine.settings import Settings
from longtake.models import (
    BackboneSpec,
    Placement,
    Sampler,
    applied_shift,
    family_of,
    load_sampler,
    open_folder,
    sampler_name,
)
from longtake.models.counting import NO_FLOPS, WeightCount, count_flops, count_weights
from longtake.models.decoders.tiles import TileGrid, tile_grid
from longtake.models.samplers.shift import shift_of
from longtake.plan.cost.profiles import hardware_of
from longtake.plan.cost.simulator import bounded, simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.search.decoders import choose_decoders, with_co_attention
from longtake.plan.search.layouts import warnings_of
from longtake.plan.workload import Workload
from longtake.strategies import Communicator, Guidance, ParallelStrategy
from longtake.task import Task


@final
class RunPlan:
    """The model as its configuration describes it, and which rank holds and runs what.

    Every rank makes the same one by itself.

    Args:
        generation_config: How videos are made.
        strategy: Where things run.
        world_size: Number of ranks.
        device: A rank's device.
        hardware: What devices and links can do; left out: found out from ``device``.

    Raises:
        LongtakeError: The generation config cannot work.
    """

    def __init__(
        self,
        generation_config: GenerationConfig,
        strategy: ParallelStrategy,
        *,
        world_size: int,
        device: torch.device,
        hardware: Hardware | None = None,
    ) -> None:
        self.generation_config = generation_config
        self.strategy = strategy
        self.world_size = world_size
        self.place = Placement(device, generation_config.torch_dtype)
        self.folder = open_folder(
            generation_config.pipeline,
            generation_config.loras,
            variant=generation_config.variant,
            revision=generation_config.revision,
            weights=generation_config.weights,
        )
        self.family = generation_config.family or family_of(self.folder)
        self.spec = self.family.spec(self.folder)
        self.card = self.family.card(self.folder)
        self.defaults = self.family.defaults(self.folder)
        check_guidance(generation_config.guidance_scale_2, self.spec)
        self.skipped = check_loras(self.folder, self.family, self.spec)
        self.settings = Settings.of(generation_config, self.defaults, self.spec.experts)
        self._load_sampler()  # or a refusal
        self.guidance = _guidance(self.settings, self.spec)
        self._hardware = hardware or hardware_of(device, generation_config.torch_dtype)
        self._checked: set[Request] = set()
        self._settled: tuple[Workload, Layout] | None = None
        self._weights: WeightCount | None = None

    @property
    def workload(self) -> Workload:
        """The request that the layout was made for: the longest one of those first checked."""
        return self._settle()[0]

    @property
    def layout(self) -> Layout:
        """Which rank holds and runs what."""
        return self._settle()[1]

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse requests that cannot be served; make the layout, once, for the longest of them.

        Raises:
            ConfigurationError: Names the number that was asked for and the nearest valid ones.
        """
        if not requests:
            raise ConfigurationError("data.prompts is empty: give at least one prompt, or a file.")
        requests = [request for request in requests if request not in self._checked]
        if not requests:  # the engine asks again before each of a run's
            return
        for request in requests:
            with naming(request):
                check_request(request, self.spec, self.generation_config.scheduler)
                check_schedule(request, self.spec, self.generation_config.scheduler)
                check_start(request, self.spec)
        if self._settled is None:
            self._settled = self._lay_out(longest(requests), len(requests))
        weights = self.count_weights()
        for request in requests:
            with naming(request):
                workload = self.workload_of(request)
                self.strategy.check(self.layout, workload)
                check_memory(workload, self.layout, weights)
        self._checked.update(requests)

    def connect(self, communicator: Communicator) -> None:
        """Settle what depends on the run's own links. Collective, once, after ``check``."""
        workload, layout = self._settle()
        self._settled = workload, self.strategy.connected(layout, workload, communicator)

    def count_weights(self) -> WeightCount | None:
        """Count the transformers' weights; ``None`` where they are not on this machine."""
        if self._weights is None:  # read from every file's header: once
            transformers = [name for name in TRANSFORMERS if self.folder.has(name)]
            # A plan may be made before anything is fetched.
            with suppress(ModelError):
                self._weights = count_weights(
                    self.folder, transformers, self.spec.layers, self.family.layer_lists
                )
        return self._weights

    def alternatives(self) -> list[Layout]:
        """Return every layout that the strategy weighed, with as many decode ranks."""
        decoders = self.layout.decoders
        found = self.strategy.alternatives(self.world_size - decoders, self.counted_workload())
        return [replace(layout, decoders=decoders) for layout in found]

    def warnings(self) -> list[str]:
        """Return what of LoRAs is skipped, and what to change about a run on several devices."""
        if self.world_size == 1:
            return list(self.skipped)
        schedule = self.strategy.actions
        try:
            simulation = simulate(self.layout, bounded(self.workload), schedule)
        except NoPlan:
            return list(self.skipped)
        found = warnings_of(self.workload, self.layout, simulation, schedule)
        return [*self.skipped, *found]

    def workload_of(self, request: Request) -> Workload:
        """Return a request as strategies see it, its operations not counted."""
        _, height, width = self.picture(request)
        return Workload(
            spec=self.spec,
            scheduler=self.generation_config.scheduler,
            latent_frames=self.latent_frames(request),
            steps=self.settings.steps,
            cache=self.generation_config.cache,
            branches=self.guidance.branches,
            height=height,
            width=width,
            item_bytes=self.generation_config.torch_dtype.itemsize,
            flops=NO_FLOPS,
            hardware=self._hardware,
            tiles=len(self._tiles(height, width).tiles),
        )

    def _tiles(self, height: int, width: int) -> TileGrid:
        """Return how the VAE's pictures of a latent size are cut: not at all by default."""
        compression, tile = self.spec.compression, self.generation_config.vae_tile
        if tile is None:
            return TileGrid(height, width, max(height, width), compression.spatial)
        return tile_grid(height, width, tile, compression)

    def sampler_of(self, request: Request) -> Sampler:
        """Return the noise levels of a request."""
        return self._load_sampler(self._tokens_of_clip(request))

    def sampler_name_of(self, request: Request) -> str:
        """Return the name of a request's sampler."""
        return sampler_name(self.folder, self.generation_config.sampler, self.sampler_of(request))

    def flow_shift_of(self, request: Request) -> float | None:
        """Return by how much a request's noise levels are shifted; ``None``: no such thing."""
        return applied_shift(
            self.folder,
            self.generation_config.sampler,
            self.settings.flow_shift,
            self._tokens_of_clip(request),
        )

    @property
    def fixed_flow_shift(self) -> float | None:
        """By how much all noise levels are shifted; ``None``: not, or by each clip's size."""
        given = self.settings.flow_shift
        if given is None and shift_of(self.folder.config("scheduler"), None) is not None:
            return None
        return applied_shift(self.folder, self.generation_config.sampler, given, None)

    def _tokens_of_clip(self, request: Request) -> int:
        """Return the video tokens that a model shifts its noise levels by.

        Of a video that is one block, those of all its frames, as in a pipeline. Of a queue, those
        of a clip of the training, or of the whole video where it is shorter: no window is longer,
        and the levels depend neither on the blocks nor on their number.
        """
        workload, native = self.workload_of(request), self.spec.native_frames
        frames = native if workload.latent_frames is None else min(workload.latent_frames, native)
        first = next(iter(workload.scheduler.blocks(workload.latent_frames)))
        if workload.latent_frames == first.stop:
            frames = first.stop
        return frames * workload.tokens_per_frame

    def latent_frames(self, request: Request) -> int | None:
        """Return a video's length in latent frames; ``None`` for an endless one."""
        if request.num_frames is None:
            return None
        return self.spec.compression.latent_frames(request.num_frames)

    def picture(self, request: Request) -> tuple[int, int, int]:
        """Return the latent channels, height and width of a request."""
        spatial = self.spec.compression.spatial
        return self.spec.channels, request.height // spatial, request.width // spatial

    def tasks(self, request: Request) -> Iterator[Task]:
        """Return the schedule of a request, in serial order."""
        return self.generation_config.scheduler.tasks(
            self.latent_frames(request), self.settings.steps
        )

    def counted_workload(self) -> Workload:
        """Return ``workload`` with its operations counted, also where the layout did not need
        them.
        """
        return self._counted(self.workload)

    def _load_sampler(self, tokens: int | None = None) -> Sampler:
        config, settings = self.generation_config, self.settings
        return load_sampler(
            self.folder,
            config.sampler,
            settings.flow_shift,
            settings.steps,
            tokens,
            self.family,
            config.timesteps,
        )

    def _counted(self, workload: Workload) -> Workload:
        if workload.flops != NO_FLOPS:
            return workload
        flops = count_flops(self.family, self.folder, self.spec, workload.height, workload.width)
        tiles = self._tiles(workload.height, workload.width)
        return replace(workload, flops=replace(flops, decode=flops.decode * tiles.overhead))

    def _lay_out(self, request: Request, requests: int) -> tuple[Workload, Layout]:
        workload = replace(self.workload_of(request), requests=requests)
        if self.world_size > 1:  # one device needs no prediction, and this takes about a second
            workload = self._counted(workload)
            weights = self.count_weights()
            if weights is not None:
                layer = max(weights.layers) * self.generation_config.torch_dtype.itemsize
                workload = replace(workload, layer_bytes=layer)
        layout = choose_decoders(
            self.world_size,
            workload,
            self.strategy.decode_devices,
            lambda ranks: self.strategy.layout(ranks, workload),
            self.strategy.actions,
        )
        if self.strategy.aco:
            text = workload.spec.text_tokens > 0
            layout = with_co_attention(layout, text_in_attention=text, sparse=workload.spec.sparse)
        if layout.size != self.world_size:
            raise ConfigurationError(
                f"the strategy {type(self.strategy).__name__} lays out {layout.size} "
                f"devices, but trainer.devices times trainer.num_nodes is {self.world_size}."
            )
        return workload, layout

    def _settle(self) -> tuple[Workload, Layout]:
        if self._settled is None:
            raise RuntimeError("the layout is made by check, for the requests of the run")
        return self._settled


def _guidance(settings: Settings, spec: BackboneSpec) -> Guidance:
    scale, second = settings.guidance_scale, settings.guidance_scale_2
    if spec.guidance == "embedded":  # the model is told the scale: there is no second branch
        return Guidance(scales=(1.0,), embedded=scale)
    return Guidance(scales=(scale, scale if second is None else second))


def longest(requests: Sequence[Request]) -> Request:
    """Return the request that keeps the most devices busy: the longest one, then the largest."""

    def size(request: Request) -> tuple[float, int]:
        frames = float("inf") if request.num_frames is None else request.num_frames
        return frames, request.height * request.width

    return max(requests, key=size)
