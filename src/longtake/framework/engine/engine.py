"""Engine: noise and prompts in, video frames out, as a stream of events."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Final, final

import torch
from torch import Tensor

from longtake.comm.device_queue import HostCopies, settle
from longtake.framework.engine.beside_decoding import BesideDecoding
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.decode_group import DecodeGroup
from longtake.framework.engine.decoding import DecodedVideo, Decoding, OwnDecoding
from longtake.framework.engine.denoising import denoising
from longtake.framework.engine.encoded_conditioning import EncodedConditioning
from longtake.framework.engine.encoded_prompts import EncodedPrompts
from longtake.framework.engine.events import Event, ExitReason, RequestStarted
from longtake.framework.engine.generation_config import GenerationConfig, Quantization
from longtake.framework.engine.keeper import RunKeeper, finished_before
from longtake.framework.engine.prompt_schedule import PromptSchedule
from longtake.framework.engine.ready_weights import ReadyWeights
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.seeds import shared_seeds
from longtake.framework.engine.snapshot_cuts import SnapshotCuts
from longtake.framework.engine.timings import Timings
from longtake.framework.engine.videos import Videos
from longtake.framework.engine.workloads import Workloads
from longtake.models import AnyBackbone, AnyDecoder, Placement
from longtake.models.decoders.tiles import AllTiles, TiledDecoder
from longtake.models.layers.kernel import check_kernel, kernel_of
from longtake.models.loading.guard import reading
from longtake.models.loading.quantize import check_quantizes
from longtake.plan.cost.profiles import hardware_of
from longtake.plan.devices import Hardware
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    ParallelStrategy,
    Progress,
    TaskDone,
)
from longtake.task import Run, Task

_LOOK: Final = 0.2
"""Seconds after which a replica with nothing left looks whether the others are done."""


@final
class Engine:
    """Makes videos: text, noise, tasks, strategy, decoder. No Lightning in it.

    Creating it reads configuration files and refuses what cannot work; ``check`` settles which
    rank holds what; ``load`` reads weights; ``generate`` makes one video, in memory that does not
    grow with its length. With several ranks each has its own engine, ``join`` connects them, and
    all call ``load`` and ``generate`` for the same requests in the same order. With several
    replicas each makes its share of them, and passes by the others'.

    Args:
        generation_config: How videos are made.
        strategy: Where things run.
        world_size: Number of ranks.
        rank: This rank.
        device: This rank's device.
        hardware: What devices and links can do; left out: found out from ``device``.

    Raises:
        LongtakeError: The generation config cannot work; nothing has been loaded.
    """

    def __init__(
        self,
        generation_config: GenerationConfig,
        strategy: ParallelStrategy,
        *,
        world_size: int = 1,
        rank: int = 0,
        device: torch.device | str = "cpu",
        hardware: Hardware | None = None,
    ) -> None:
        self._run_rank = rank
        place = Placement(
            torch.device(device),
            generation_config.torch_dtype,
            quantize=generation_config.quantization.transformer,
            offload=generation_config.offload == "layers",
        )
        if generation_config.quantization != Quantization():
            check_quantizes()
        self.model = ResolvedModel(generation_config, place)
        self.workloads = Workloads(self.model, hardware or hardware_of(place.device, place.dtype))
        self.chosen = ChosenLayout(self.workloads, strategy, world_size)
        check_kernel(self.model.attention, place)
        self._weights = ReadyWeights(self.model)
        self.timings = Timings()
        self._run = Communicator.alone()
        self._communicator = self._run
        self._prompts = EncodedPrompts(self.model)
        self._starts = EncodedConditioning(self.model, self.timings)
        self._group: DecodeGroup | None = None
        self._videos = Videos()
        self._videos_begun = 0
        self._keeper: RunKeeper | None = None
        self._made: set[int] = set()
        self._seeds: Mapping[int, int] = {}
        self._backbone: AnyBackbone | None = None
        self._decoder: AnyDecoder | None = None
        self._copies: HostCopies | None = None

    def keep(self, keeper: RunKeeper) -> None:
        """Save what the run needs to go on, and go on where it stood, if it did."""
        self._keeper = keeper

    @property
    def made_before(self) -> int:
        """How many of the requests so far an earlier process has made."""
        return len(self._made)

    @property
    def communicator(self) -> Communicator:
        """The ranks of the run."""
        return self._run

    @property
    def replica(self) -> int:
        """Number of this rank's replica; known after ``check``."""
        return self._run_rank // self.chosen.replica_size

    @property
    def share(self) -> tuple[Request, ...]:
        """Those of the requests so far checked that this rank's replica makes."""
        return self.chosen.share(self.replica)

    @property
    def is_alone(self) -> bool:
        """Whether no other rank makes this one's videos with it."""
        return self.chosen.replica_size == 1

    @property
    def _rank(self) -> int:
        """This rank among those of its replica."""
        return self._run_rank % self.chosen.replica_size

    @property
    def is_output(self) -> bool:
        """Whether videos come out on this rank: on one of each replica."""
        return self._rank == self.chosen.layout.output_rank

    @property
    def _decodes_only(self) -> bool:
        """Whether this rank stands beside the mesh."""
        return self._rank >= self.chosen.layout.mesh.size

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse requests that cannot be served; settle which rank holds and runs what.

        Raises:
            ConfigurationError: Names the number that was asked for and the nearest valid ones.
        """
        self.chosen.check(requests)

    def join(self, communicator: Communicator) -> None:
        """Connect this rank's engine with those of the others, after ``check``. Collective.

        Raises:
            ConfigurationError: The ranks' machines are so unlike that their layouts differ, or
                the commits or files of the model that they found.
        """
        self._run = communicator
        self.chosen.join(communicator)
        if self.chosen.replicas.count > 1:
            self._seeds = shared_seeds(self.chosen.requests, communicator)
            if self._keeper is not None:
                self._keeper.check_seen(communicator, sees=self.is_output)
        communicator = self._communicator = communicator.replicas(self.chosen.replica_size)
        self.chosen.connect(communicator)
        if self.chosen.layout.decoders:
            kernel = kernel_of(self.model.attention)
            heads = self.model.spec.heads
            self._group = DecodeGroup(communicator, self.chosen.layout, heads, kernel, self.timings)

    def load(self, requests: Sequence[Request]) -> None:
        """Encode the requests' prompts and starts, free the encoders, read this rank's weights.

        Idempotent: what is loaded stays loaded. Collective.

        Raises:
            ConfigurationError: A request cannot be served.
            ModelError: A tensor is missing or misshapen.
        """
        self.check(requests)
        self.chosen.check_joined(self._run)
        requests = [one for one in requests if self.chosen.makes(one, self.replica)]
        with self.timings.part("load"):
            self._weights.make_ready()
        with self.timings.part("text"):
            self._prompts.encode(requests, self._communicator, self.chosen.layout.output_rank)
        self._starts.encode(requests, self._communicator, self.chosen.layout.output_rank)
        with self.timings.part("load"):
            if not self._decodes_only:
                self._load_backbone()
            if self._decodes_only or (self.is_output and not self.chosen.layout.decoders):
                self._load_decoder()

    def generate(
        self, request: Request, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Make one video and report on it.

        Collective: every rank calls it for the same requests in the same order.

        Args:
            request: What to make.
            stop: Asked on the output rank, between tasks and before the first; when it says so,
                the video ends there on all ranks, complete so far.

        Yields:
            On the output rank ``RequestStarted`` first, ``RequestEnded`` last; nothing where
            ``stop`` says so before the first task. On other ranks the strategy's progress alone.
            Nothing on those of other replicas than the one that makes it.
        """
        yield from self.generate_ahead(request, stop)
        yield from self.finish()

    @torch.no_grad()
    def generate_ahead(
        self, request: Request, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Make one video as ``generate`` does, but do not wait for decode ranks to decode it.

        What is left of it is reported by the next call, before anything of the next video, or by
        ``finish``. Collective, as ``generate``.
        """
        self.load([request])
        if not self.chosen.makes(request, self.replica):
            return
        request = replace(request, seed=self._seeds.get(request.index, request.seed))
        if self._communicator.agree(self.is_output and stop()):
            return
        point = self._point(request)
        if point is None:
            self._made.add(request.index)
            return
        video, self._videos_begun = self._videos_begun, self._videos_begun + 1
        self._communicator.begin_request()
        if self._group is not None and self._decodes_only:
            forwards = self.workloads.of(request).forwards()
            picture, frames = self.workloads.picture(request), self.workloads.latent_frames(request)
            decoder = self._load_decoder()
            yield from self._group.serve(video, forwards, picture, decoder, frames, point)
            return
        cuts: SnapshotCuts | None = None
        if self._keeper is not None:
            layout = self.chosen.layout
            cuts = self._keeper.cuts(request, self._communicator, layout, point, self.workloads)
        progress = self._denoise(request, video, cuts, point)
        if not self.is_output:
            yield from self.timings.each("denoise", progress)
        else:
            decoding = self._decoding(request, video)
            before = self._finished_before(request, point)
            try:
                yield from self._videos.emit(self._started(request, point, len(before)))
                reason = yield from self._make(request, progress, decoding, stop, before)
                yield from self._videos.leave(request, reason, decoding)
                if self._group is None:
                    yield from self._videos.finish()
            except KeyboardInterrupt:  # a second order: nothing is waited for
                raise
            except BaseException:  # also where nobody wants more of it
                decoding.close()
                if self.is_alone:  # others would be told of an end
                    progress.close()  # now, when threads can still save what is in flight
                    if cuts is not None:
                        cuts.flush()
                raise
        if cuts is not None:
            cuts.flush()

    @torch.no_grad()
    def finish(self) -> Iterator[Event]:
        """Tell what is left of the last video. Collective, after the last ``generate_ahead``."""
        yield from self._videos.finish()
        if self._group is not None:
            self._group.flush()

    def leave(self, word: str, look: Callable[[], None] = lambda: None) -> list[str]:
        """Wait until all replicas have made their shares; return what each of them has to say.

        Collective: all ranks of the run, after the last ``finish``.

        Args:
            word: What the replica of this output rank says.
            look: Called all the while.

        Raises:
            RankFailure: Another rank is gone.
        """
        count = self.chosen.replicas.count
        if count == 1:
            return [word]
        if self.is_output:
            self._run.announce_parting(self.replica, word)
        while (words := self._run.announced_partings(count)) is None:
            look()
            time.sleep(_LOOK)
        return words

    def _make(
        self,
        request: Request,
        progress: Generator[Progress, None, None],
        decoding: Decoding,
        stop: Callable[[], bool],
        before: Sequence[tuple[Task, Run]],
    ) -> Generator[Event, None, ExitReason]:
        """Denoise a video, have its blocks decoded, and report both (output rank).

        Args:
            request: Which one.
            progress: Of its denoising.
            decoding: Of its blocks.
            stop: Says when it is to end early.
            before: Blocks that an earlier process has finished: they are decoded anew, since what
                a decoder remembers of them is larger than they are.
        """
        yield from self._decode_anew(request, decoding, before)
        latent_frames, blocks = self.workloads.latent_frames(request), len(before)
        last: Task | None = None
        for done in self.timings.each("denoise", progress):
            yield from self._videos.emit(done)
            if isinstance(done, TaskDone):
                last = done.task
                yield from decoding.after_task()
            if isinstance(done, BlockDone):
                assert last is not None
                while not decoding.has_room:
                    yield from self._videos.decoded(decoding, patient=True)
                yield from decoding.take(last, done)
                blocks += 1
            if isinstance(done, BlockDone | TaskDone):
                yield from self._videos.decoded(decoding)
            if _goes_on(done, latent_frames) and stop():
                progress.close()
                decoding.end(next_block=self.workloads.block_frames(request, blocks))
                return ExitReason.STOPPED
        decoding.end()
        return ExitReason.FINISHED

    def _decode_anew(
        self, request: Request, decoding: Decoding, before: Sequence[tuple[Task, Run]]
    ) -> Iterator[Event]:
        for task, run in before:
            assert self._keeper is not None
            latents = self._keeper.latents(request, run).to(self.model.place.device)
            while not decoding.has_room:
                yield from self._videos.decoded(decoding, patient=True)
            yield from decoding.take(task, BlockDone(run.block, run.block_frames, latents))
            yield from self._videos.decoded(decoding)

    def _point(self, request: Request) -> int | None:
        """Return the task from which on a request goes on; ``None``: it is all made. Collective."""
        if self._keeper is None or not self._keeper.resumes:
            return 0
        found: Tensor | None = None
        if self._rank == 0:
            made = request.index in self._keeper.made([request])
            forwards = self.workloads.of(request).forwards
            found = torch.tensor([-1 if made else self._keeper.point(request, forwards)])
        point = int(self._communicator.share(found))
        return None if point < 0 else point

    def _finished_before(self, request: Request, point: int) -> list[tuple[Task, Run]]:
        return list(finished_before(self.workloads.of(request).forwards(), point)) if point else []

    def _decoding(self, request: Request, video: int) -> Decoding:
        if self._group is not None:
            return self._group.hand_over(video, self.workloads.picture(request))
        if self._copies is None:  # one for all requests: it has a stream
            self._copies = HostCopies(self.model.place.device)
        frames, layout = self.workloads.latent_frames(request), self.chosen.layout
        # A GPU has no cores to spare: there the VAE's memory would come on top of the layers'.
        on_spare_cores = self.model.place.device.type == "cpu" and layout.mesh.size == 1
        own = BesideDecoding if on_spare_cores else OwnDecoding
        return own(DecodedVideo(self._load_decoder(), self.timings, frames, self._copies), layout)

    def _denoise(
        self, request: Request, video: int, cuts: SnapshotCuts | None, point: int
    ) -> Generator[Progress, None, None]:
        """Denoise a request from a task on, and save what it holds where it is cut."""
        backbone = self._load_backbone().at_rate(float(request.fps))
        start = self._starts.of(request)
        condition = self._prompts.condition(request, backbone, start)
        prompts = PromptSchedule(request, condition, self.model.spec.compression)
        work = denoising(
            self.workloads, request, backbone, prompts.condition, self._communicator, start
        )
        co_attention = None if self._group is None else self._group.co_attention
        resumed = self._keeper.state(request, point) if self._keeper and point else None
        work = replace(work, co_attention=co_attention, request=video, cuts=cuts, resumed=resumed)
        progress = self.chosen.strategy.run(work, self.chosen.layout, self._rank)
        try:
            for done in progress:
                if isinstance(done, TaskDone):
                    self._look_at_others(request)
                    for run in done.task.finished:
                        prompts.finish(run.block_frames)
                if isinstance(done, BlockDone):
                    # So that its time counts as denoising, not as decoding.
                    settle(self.model.place.device)
                yield done
        except BaseException as error:
            # Now, not when it is collected: other ranks wait for it. But not at a second Ctrl-C.
            if isinstance(progress, Generator) and not isinstance(error, KeyboardInterrupt):
                progress.close()
            raise

    def _look_at_others(self, request: Request) -> None:
        """End this replica too, where another one has failed: it waits for no message of theirs."""
        if self.chosen.replicas.count > 1:
            self._run.check(f"go on with request {request.index}")

    def _started(self, request: Request, point: int, blocks_before: int) -> RequestStarted:
        return RequestStarted(
            request=request,
            blocks=self.workloads.blocks(request),
            steps=self.model.settings.steps,
            tasks=self.workloads.forwards(request),
            video_frames=request.num_frames,
            tasks_before=self._tasks_before(request, point),
            blocks_before=blocks_before,
        )

    def _tasks_before(self, request: Request, point: int) -> int:
        forwards = self.workloads.of(request).forwards() if point else iter(())
        return sum(1 for _ in takewhile(lambda one: one.task.index < point, forwards))

    def _load_backbone(self) -> AnyBackbone:
        if self._backbone is None:
            layers = self.chosen.layout.layers(self._rank)
            with reading(f"the transformer of the model in {self.model.folder.path}"):
                self._backbone = self.model.family.load_backbone(
                    self.model.folder, self.model.spec, layers, self.model.place
                )
        return self._backbone

    def _load_decoder(self) -> AnyDecoder:
        if self._decoder is None:
            model, tile = self.model, self.model.generation_config.vae_tile
            with reading(f"the vae of the model in {model.folder.path}"):
                self._decoder = model.family.load_decoder(
                    model.folder, model.place.device, model.generation_config.torch_vae_dtype
                )
            if tile is not None:
                owners = AllTiles() if self._group is None else self._group.tiles
                compression = model.spec.compression
                self._decoder = self._decoder.in_tiles(
                    lambda decoder: TiledDecoder(decoder, compression, tile, owners)
                )
        return self._decoder


def _goes_on(done: Progress, latent_frames: int | None) -> bool:
    """Whether a video may end here early: between two tasks, and not when it is all made."""
    match done:
        case ActionDone():
            return False
        case TaskDone(task):
            return not task.finished  # its block comes next
        case BlockDone(frames=frames):
            return frames.stop != latent_frames
