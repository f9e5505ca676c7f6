"""The engine: noise and prompts in, video frames out, as a stream of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.framework.conditions import PromptSchedule
from longtake.framework.events import (
    Event,
    ExitReason,
    FramesDecoded,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.preflight import (
    check_guidance,
    check_memory,
    check_request,
    check_schedule,
    check_weights,
)
from longtake.framework.recipe import Recipe
from longtake.framework.request import Request
from longtake.framework.timings import Timings
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    Placement,
    family_of,
    load_sampler,
    open_folder,
)
from longtake.models.kernel import check_backend
from longtake.noise import NoiseSource
from longtake.plan import FrameRange
from longtake.strategies import BlockDone, Denoising, Guidance, ParallelStrategy, Progress

ItemT = TypeVar("ItemT")


@final
class Engine:
    """Makes videos: text, noise, tasks, strategy, decoder. No Lightning in it.

    Creating it reads configuration files and refuses what cannot work; ``load`` reads weights;
    ``generate`` makes one video, in memory that does not grow with its length.

    Args:
        recipe: How videos are made.
        strategy: Where things run.
        world_size: Number of ranks.
        rank: This rank.
        device: This rank's device.

    Raises:
        LongtakeError: The recipe cannot work; nothing has been loaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        strategy: ParallelStrategy,
        *,
        world_size: int = 1,
        rank: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._recipe = recipe
        self._strategy = strategy
        self._rank = rank
        self._place = Placement(torch.device(device), recipe.torch_dtype)
        self._folder = open_folder(recipe.pipeline)
        self._family = family_of(self._folder)
        self.spec = self._family.spec(self._folder)
        self._sampler = load_sampler(self._folder, recipe.sampler, recipe.flow_shift, recipe.steps)
        check_guidance(recipe.guidance_scale_2, self.spec)
        check_backend(recipe.attention, self._place)
        if self._folder.is_local:
            check_weights(self._folder)
        self._mesh = strategy.mesh(world_size, self.spec)
        low = recipe.guidance_scale_2
        self._guidance = Guidance(
            scales=(recipe.guidance_scale, recipe.guidance_scale if low is None else low)
        )
        self.timings = Timings()
        self._prompts: dict[str, Tensor] = {}
        self._backbone: AnyBackbone | None = None
        self._decoder: AnyDecoder | None = None

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse requests that cannot be served.

        Raises:
            ConfigurationError: Names the number that was asked for and the nearest valid ones.
        """
        if not requests:
            raise ConfigurationError("data.prompts is empty: give at least one prompt, or a file.")
        for request in requests:
            try:
                check_request(request, self.spec, self._recipe.scheduler)
                check_schedule(request, self.spec, self._recipe.scheduler)
                branches = self._guidance.branches
                check_memory(self._recipe, request, self.spec, branches, self._place.device)
            except ConfigurationError as error:
                if not request.origin:
                    raise
                raise ConfigurationError(f"{request.origin}: {error}") from error

    def load(self, requests: Sequence[Request]) -> None:
        """Encode the requests' prompts, free the text encoder, read this rank's weights.

        Idempotent: what is loaded stays loaded.

        Raises:
            ConfigurationError: A request cannot be served.
            ModelError: A tensor is missing or misshapen.
        """
        self.check(requests)
        with self.timings.part("load"):
            self._folder.fetch_weights()
            check_weights(self._folder)
        with self.timings.part("text"):
            self._encode(requests)
        with self.timings.part("load"):
            self._models()

    @torch.no_grad()
    def generate(
        self, request: Request, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Make one video and tell about it.

        Collective: every rank of the mesh must call it for the same requests in the same order.

        Args:
            request: What to make.
            stop: Asked after every task, and before the first; when it says so, the video ends
                there, complete so far.

        Yields:
            ``RequestStarted`` first, ``RequestEnded`` last; nothing where ``stop`` says so before
            the first task.
        """
        self.load([request])
        if stop():
            return
        backbone, decoder = self._models()
        latent_frames = self._latent_frames(request)
        blocks = None
        if latent_frames is not None:
            blocks = sum(1 for _ in self._recipe.scheduler.blocks(latent_frames))
        yield RequestStarted(
            request=request,
            blocks=blocks,
            steps=self._recipe.steps,
            video_frames=request.num_frames,
        )
        prompts = PromptSchedule(request, self._condition(request, backbone), self.spec.compression)
        work = self._denoising(request, backbone, prompts.condition)
        progress = self._strategy.run(work, self._mesh, self._rank)
        state = decoder.start()
        for done in self._timed("denoise", self._synchronized(progress)):
            yield done
            if isinstance(done, BlockDone):
                prompts.finish(done.frames)
                frames = map(_to_uint8, decoder.decode(state, done.latents))
                yield from map(FramesDecoded, self._timed("decode", frames))
            complete = isinstance(done, BlockDone) and done.frames.stop == latent_frames
            if stop() and not complete:
                yield RequestEnded(request, ExitReason.STOPPED)
                return
        yield RequestEnded(request, ExitReason.FINISHED)

    def _synchronized(self, progress: Iterator[Progress]) -> Iterator[Progress]:
        """Wait for the device at every finished block, so that its time counts as denoising."""
        for done in progress:
            if isinstance(done, BlockDone) and self._place.device.type == "cuda":
                torch.cuda.synchronize(self._place.device)
            yield done

    def _encode(self, requests: Sequence[Request]) -> None:
        needed = [prompt.text for request in requests for prompt in request.prompts]
        if self._guidance.branches == 2:
            needed += [request.negative_prompt for request in requests]
        missing = [text for text in dict.fromkeys(needed) if text not in self._prompts]
        if missing:
            states = self._family.encode_text(self._folder, missing, self._place)
            self._prompts.update(zip(missing, torch.split(states, 1), strict=True))

    def _models(self) -> tuple[AnyBackbone, AnyDecoder]:
        if self._backbone is None or self._decoder is None:
            self._backbone = self._family.load_backbone(
                self._folder,
                self.spec,
                self._strategy.layers(self._mesh, self._rank, self.spec),
                self._place,
            )
            self._decoder = self._family.load_decoder(self._folder, self._place.device)
        return self._backbone, self._decoder

    def _condition(self, request: Request, backbone: AnyBackbone) -> Callable[[str, range], Any]:
        def condition(text: str, branches: range) -> Any:
            prompts = (text, request.negative_prompt)
            states = torch.cat([self._prompts[prompts[branch]] for branch in branches])
            return backbone.condition_text(states.to(self._place.device, self._place.dtype))

        return condition

    def _denoising(
        self, request: Request, backbone: AnyBackbone, text: Callable[[FrameRange, range], Any]
    ) -> Denoising:
        spatial = self.spec.compression.spatial
        height, width = request.height // spatial, request.width // spatial
        latent_frames = self._latent_frames(request)
        source = NoiseSource(
            seed=request.seed,
            request=request.index,
            channels=self.spec.channels,
            height=height,
            width=width,
        )
        scheduler = self._recipe.scheduler
        return Denoising(
            backbone=backbone,
            tasks=scheduler.tasks(latent_frames, self._recipe.steps),
            noise=self._recipe.noise.blocks(source, scheduler.blocks(latent_frames)),
            cache=self._recipe.cache,
            sampler=self._sampler,
            guidance=self._guidance,
            text=text,
            height=height,
            width=width,
            device=self._place.device,
            attention=self._recipe.attention,
        )

    def _latent_frames(self, request: Request) -> int | None:
        if request.num_frames is None:
            return None
        return self.spec.compression.latent_frames(request.num_frames)

    def _timed(self, part: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Count the time inside ``items`` as ``part``, and none of the consumer's."""
        while True:
            with self.timings.part(part):
                item = next(items, None)
            if item is None:
                return
            yield item


def _to_uint8(frames: Tensor) -> Tensor:
    """Turn frames ``(frames, 3, height, width)`` in ``[-1, 1]`` into bytes, channels last."""
    pixels = frames.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()
