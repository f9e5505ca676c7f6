"""The engine: noise and prompts in, video frames out, as a stream of events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar, final

import torch

from longtake.errors import ConfigurationError
from longtake.framework.conditions import PromptSchedule
from longtake.framework.decoding import Decoding
from longtake.framework.events import (
    Event,
    ExitReason,
    RequestEnded,
    RequestStarted,
)
from longtake.framework.preflight import check_weights
from longtake.framework.recipe import Recipe
from longtake.framework.request import Request
from longtake.framework.run_plan import RunPlan
from longtake.framework.timings import Timings
from longtake.models import AnyBackbone, AnyDecoder, PromptStates
from longtake.models.kernel import check_backend
from longtake.models.text import (
    join_prompts,
    move_prompts,
    pack_prompts,
    split_prompts,
    unpack_prompts,
)
from longtake.noise import NoiseSource
from longtake.plan import FrameRange
from longtake.plan.cost import Hardware
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Denoising,
    ParallelStrategy,
    Peers,
    Progress,
    TaskDone,
)

ItemT = TypeVar("ItemT")


@final
class Engine:
    """Makes videos: text, noise, tasks, strategy, decoder. No Lightning in it.

    Creating it reads configuration files and refuses what cannot work; ``check`` settles which
    rank holds what; ``load`` reads weights; ``generate`` makes one video, in memory that does not
    grow with its length. With several ranks each has its own engine, ``join`` connects them, and
    all call ``load`` and ``generate`` for the same requests in the same order.

    Args:
        recipe: How videos are made.
        strategy: Where things run.
        world_size: Number of ranks.
        rank: This rank.
        device: This rank's device.
        hardware: What devices and links can do; left out: found out from ``device``.

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
        hardware: Hardware | None = None,
    ) -> None:
        self._rank = rank
        self.plan = RunPlan(
            recipe,
            strategy,
            world_size=world_size,
            device=torch.device(device),
            hardware=hardware,
        )
        check_backend(recipe.attention, self.plan.place)
        if self.plan.folder.is_local:
            check_weights(self.plan.folder)
        self.timings = Timings()
        self._peers = Peers.alone()
        self._prompts: dict[str, PromptStates] = {}
        self._backbone: AnyBackbone | None = None
        self._decoder: AnyDecoder | None = None

    @property
    def peers(self) -> Peers:
        """The ranks of the run."""
        return self._peers

    @property
    def is_output(self) -> bool:
        """Whether the video comes out on this rank."""
        return self._rank == self.plan.layout.output_rank

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse requests that cannot be served; settle which rank holds and runs what.

        Raises:
            ConfigurationError: Names the number that was asked for and the nearest valid ones.
        """
        self.plan.check(requests)

    def join(self, peers: Peers) -> None:
        """Connect this rank's engine with those of the others, after ``check``. Collective.

        Raises:
            ConfigurationError: The ranks' machines are so unlike that their layouts differ.
        """
        self._peers = peers
        layouts = dict.fromkeys(peers.gather(str(self.plan.layout)))
        if len(layouts) > 1:
            raise ConfigurationError(
                f"the devices are unlike, so the ranks would not agree on who holds what "
                f"({' and '.join(layouts)}); choose the layout yourself, in trainer.strategy."
            )

    def load(self, requests: Sequence[Request]) -> None:
        """Encode the requests' prompts, free the text encoder, read this rank's weights.

        Idempotent: what is loaded stays loaded. Collective.

        Raises:
            ConfigurationError: A request cannot be served.
            ModelError: A tensor is missing or misshapen.
        """
        self.check(requests)
        with self.timings.part("load"):
            self.plan.folder.fetch_weights()
            check_weights(self.plan.folder)
        with self.timings.part("text"):
            self._encode(requests)
        with self.timings.part("load"):
            self._models()

    @torch.no_grad()
    def generate(
        self, request: Request, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Make one video and tell about it.

        Collective: every rank calls it for the same requests in the same order.

        Args:
            request: What to make.
            stop: Asked on the output rank, between tasks and before the first; when it says so,
                the video ends there on all ranks, complete so far.

        Yields:
            On the output rank ``RequestStarted`` first, ``RequestEnded`` last; nothing where
            ``stop`` says so before the first task. On other ranks the strategy's progress alone.
        """
        self.load([request])
        if self._peers.agree(self.is_output and stop()):
            return
        backbone, decoder = self._models()
        progress = self._denoise(request, backbone)
        if decoder is None:
            yield from self._timed("denoise", progress)
            return
        latent_frames = self.plan.latent_frames(request)
        yield self._started(request, latent_frames)
        decoding = Decoding(decoder, self.timings)
        # Other ranks wait for this one while it decodes, so it decodes between tasks.
        alone = self.plan.world_size == 1
        for done in self._timed("denoise", progress):
            yield done
            if isinstance(done, BlockDone):
                yield from decoding.rest()
                decoding.begin(done.latents)
            if isinstance(done, BlockDone | TaskDone):
                yield from decoding.rest() if alone else decoding.some()
            if _goes_on(done, latent_frames) and stop():
                progress.close()
                yield from decoding.finish()
                yield RequestEnded(request, ExitReason.STOPPED)
                return
        yield from decoding.finish()
        yield RequestEnded(request, ExitReason.FINISHED)

    def _denoise(self, request: Request, backbone: AnyBackbone) -> Generator[Progress, None, None]:
        condition = self._condition(request, backbone)
        prompts = PromptSchedule(request, condition, self.plan.spec.compression)
        work = self._denoising(request, backbone, prompts.condition)
        progress = self.plan.strategy.run(work, self.plan.layout, self._rank)
        try:
            for done in progress:
                if isinstance(done, TaskDone) and done.task.last_step:
                    prompts.finish(done.task.frames)
                if isinstance(done, BlockDone) and self.plan.place.device.type == "cuda":
                    # So that its time counts as denoising, not as decoding.
                    torch.cuda.synchronize(self.plan.place.device)
                yield done
        finally:
            if isinstance(progress, Generator):
                progress.close()  # now, not when it is collected: other ranks wait for it

    def _started(self, request: Request, latent_frames: int | None) -> RequestStarted:
        blocks = None
        if latent_frames is not None:
            blocks = sum(1 for _ in self.plan.recipe.scheduler.blocks(latent_frames))
        return RequestStarted(
            request=request,
            blocks=blocks,
            steps=self.plan.recipe.steps,
            video_frames=request.num_frames,
        )

    def _encode(self, requests: Sequence[Request]) -> None:
        needed = [prompt.text for request in requests for prompt in request.prompts]
        if self.plan.guidance.branches == 2:
            needed += [request.negative_prompt for request in requests]
        missing = [text for text in dict.fromkeys(needed) if text not in self._prompts]
        if missing:
            packed = None
            if self.is_output:  # text encoders are as large as a transformer: read once
                states = self.plan.family.encode_text(self.plan.folder, missing, self.plan.place)
                packed = pack_prompts(states)
            states = unpack_prompts(self._peers.share(packed))
            self._prompts.update(zip(missing, split_prompts(states), strict=True))

    def _models(self) -> tuple[AnyBackbone, AnyDecoder | None]:
        """Return this rank's layers, and on the output rank the decoder."""
        if self._backbone is None:
            layers = self.plan.layout.layers(self._rank)
            self._backbone = self.plan.family.load_backbone(
                self.plan.folder, self.plan.spec, layers, self.plan.place
            )
        if self._decoder is None and self.is_output:
            self._decoder = self.plan.family.load_decoder(self.plan.folder, self.plan.place.device)
        return self._backbone, self._decoder

    def _condition(self, request: Request, backbone: AnyBackbone) -> Callable[[str, range], Any]:
        def condition(text: str, branches: range) -> Any:
            prompts = (text, request.negative_prompt)
            states = join_prompts([self._prompts[prompts[branch]] for branch in branches])
            return backbone.condition_text(move_prompts(states, self.plan.place))

        return condition

    def _denoising(
        self, request: Request, backbone: AnyBackbone, text: Callable[[FrameRange, range], Any]
    ) -> Denoising:
        spatial = self.plan.spec.compression.spatial
        height, width = request.height // spatial, request.width // spatial
        latent_frames = self.plan.latent_frames(request)
        source = NoiseSource(
            seed=request.seed,
            request=request.index,
            channels=self.plan.spec.channels,
            height=height,
            width=width,
        )
        scheduler = self.plan.recipe.scheduler
        return Denoising(
            backbone=backbone,
            tasks=scheduler.tasks(latent_frames, self.plan.recipe.steps),
            noise=self.plan.recipe.noise.blocks(source, scheduler.blocks(latent_frames)),
            cache=self.plan.recipe.cache,
            sampler=self.plan.sampler,
            guidance=self.plan.guidance,
            text=text,
            height=height,
            width=width,
            device=self.plan.place.device,
            attention=self.plan.recipe.attention,
            dtype=self.plan.place.dtype,
            peers=self._peers,
        )

    def _timed(self, part: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Count the time inside ``items`` as ``part``, and none of the consumer's."""
        while True:
            with self.timings.part(part):
                item = next(items, None)
            if item is None:
                return
            yield item


def _goes_on(done: Progress, latent_frames: int | None) -> bool:
    """Whether a video may end here early: between two tasks, and not when it is all made."""
    match done:
        case ActionDone():
            return False
        case TaskDone(task):
            return not task.last_step  # its block comes next
        case BlockDone(frames=frames):
            return frames.stop != latent_frames
