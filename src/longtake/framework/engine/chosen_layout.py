"""Layout of a run, chosen: which rank holds and runs what, for the requests that were checked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from longtake.errors import ConfigurationError, NoPlan
from longtake.framework.engine.conditioning import check_start, lower_rate
from longtake.framework.engine.memory import RunMemory
from longtake.framework.engine.pictures import check_pictures
from longtake.framework.engine.preflight import (
    check_merges,
    check_request,
    check_reuse,
    check_schedule,
    naming,
)
from longtake.framework.engine.request import Request, repeated
from longtake.framework.engine.workloads import Workloads, longest
from longtake.models.flops import Flops
from longtake.models.loading.checksums import check_alike
from longtake.plan.check.layouts import check_layout
from longtake.plan.check.methods import check_method, unread
from longtake.plan.cost.simulator import bounded
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.decoders import choose_decoders, with_co_attention
from longtake.plan.search.layouts import warnings_of
from longtake.plan.search.replicas import (
    Division,
    Replicas,
    assign,
    best_division,
    replica_counts,
    request_seconds,
)
from longtake.plan.workload import Workload
from longtake.strategies import Communicator, ParallelStrategy


@final
class ChosenLayout:
    """One layout for all requests of a run, made when the first of them are checked.

    Every rank makes the same one by itself. With several replicas it is that of each.

    Args:
        workloads: What the requests are to the model.
        strategy: Where things run.
        world_size: Number of ranks.

    Attributes:
        memory: What ranks hold.
        divisions: Every number of replicas that was weighed, the layouts of which are possible.
    """

    def __init__(self, workloads: Workloads, strategy: ParallelStrategy, world_size: int) -> None:
        self.workloads = workloads
        self.strategy = strategy
        self.world_size = world_size
        self.memory = RunMemory(workloads.model)
        self.divisions: list[Division] = []
        self._checked: set[Request] = set()
        self._flops: dict[tuple[int, int], Flops] = {}
        self._settled: tuple[Workload, Division] | None = None

    @property
    def workload(self) -> Workload:
        """The request that the layout was made for: the longest one of those first checked."""
        return self._settle()[0]

    @property
    def layout(self) -> Layout:
        """Which rank of a replica holds and runs what."""
        return self._settle()[1].layout

    @property
    def replicas(self) -> Replicas:
        """How many replicas there are, and which requests each of them makes."""
        return self._settle()[1].replicas

    @property
    def replica_size(self) -> int:
        """Ranks of each replica."""
        return self.world_size // self.replicas.count

    @property
    def mesh(self) -> Mesh:
        """Degrees of all axes of the run."""
        return replace(self.layout.mesh, data=self.replicas.count)

    def makes(self, request: Request, replica: int) -> bool:
        """Whether a replica makes a request.

        Raises:
            ConfigurationError: No replica does: the run was laid out without it.
        """
        shares = self.replicas.shares
        if len(shares) == 1:
            return True
        if not any(request.index in share for share in shares):
            raise ConfigurationError(
                f"request {request.index} was not there when the requests were divided among "
                f"{len(shares)} replicas: call engine.check with all of them."
            )
        return request.index in shares[replica]

    @property
    def requests(self) -> list[Request]:
        """Those that have been checked, in order."""
        return sorted(self._checked, key=lambda request: request.index)

    def share(self, replica: int) -> tuple[Request, ...]:
        """Return those of the requests that have been checked that a replica makes, in order."""
        return tuple(request for request in self.requests if self.makes(request, replica))

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
        model = self.workloads.model
        for request in requests:
            with naming(request):
                check_request(request, model.spec, model.generation_config.scheduler)
                check_schedule(request, model.spec, model.generation_config.scheduler)
                check_start(request, model.spec)
                check_pictures(request, model.spec, model.generation_config.scheduler)
                check_method(self.workloads.of(request))
        if self._settled is None:
            self._settled = self._lay_out(requests)
            check_merges(model.attention, self.layout)
            check_reuse(model.reuse, self.layout)
        for request in requests:
            with naming(request):
                workload = self.workloads.of(request)
                self.strategy.check(self.layout, workload)
                self.memory.check(workload, self.layout, starts=request.encodes_frames)
        self._checked.update(requests)

    def join(self, communicator: Communicator) -> None:
        """Compare the ranks' layouts, before ``connect``. Collective: all ranks of the run, once.

        Raises:
            ConfigurationError: The ranks' machines are so unlike that their layouts differ, or
                the commits or files of the model that they found.
        """
        layout, model = self.layout, self.workloads.model
        # In one message: where rank 0 refuses, no other rank waits for a second one.
        files = dict(model.checksums()) if communicator.world_size > 1 else {}
        said = f"{layout}, requests {self.replicas.shares}" if self.replicas.count > 1 else layout
        own = json.dumps([str(said), model.folder.revision or "", files])
        found = [json.loads(text) for text in communicator.gather(own)]
        layouts = dict.fromkeys(text for text, _, _ in found)
        if len(layouts) > 1:
            raise ConfigurationError(
                f"the devices are unlike, so the ranks would not agree on who holds what "
                f"({' and '.join(layouts)}); choose the layout yourself, in trainer.strategy."
            )
        commits = dict.fromkeys(commit for _, commit, _ in found)
        if len(commits) > 1:
            raise ConfigurationError(
                f"the ranks found other commits of {model.generation_config.pipeline} "
                f"({' and '.join(commits)}); set model.revision to one of them."
            )
        if found:
            check_alike([files for _, _, files in found], model.generation_config.pipeline)

    def connect(self, replica: Communicator) -> None:
        """Make the groups of a replica, and settle what depends on its links. Collective, once.

        Args:
            replica: This rank's.
        """
        workload, division = self._settle()
        replica.make_groups(division.layout.groups)
        if self.workloads.model.reuse is not None:
            replica.make_groups(division.layout.deciding_groups)
        layout = self.strategy.connected(division.layout, workload, replica)
        self._settled = workload, replace(division, layout=layout)

    def check_joined(self, communicator: Communicator) -> None:
        """Refuse to begin with several ranks that nothing connects.

        Raises:
            ConfigurationError: Says what connects them.
        """
        if communicator.world_size != self.world_size:
            raise ConfigurationError(
                f"this engine is one of {self.world_size} ranks, but it has been joined with "
                f"{communicator.world_size - 1} others: call engine.join(communicator) on every "
                f"rank, between check and load, or run it under "
                f"InferenceTrainer(devices={self.world_size}), which does."
            )

    def counted_workload(self) -> Workload:
        """Return ``workload`` with its operations counted, also where the layout did not need
        them.
        """
        return self.workloads.counted(self.workload)

    def alternatives(self) -> list[Layout]:
        """Return every layout that the strategy weighed, with as many decode ranks."""
        decoders = self.layout.decoders
        found = self.strategy.alternatives(self.replica_size - decoders, self.counted_workload())
        return [replace(layout, decoders=decoders) for layout in found]

    def warnings(self) -> list[str]:
        """Return what of LoRAs is skipped, what is kept for nobody, and what to change about a
        run on several devices.
        """
        found = self.always()
        if self.world_size == 1:
            return found
        clock, workload = self.strategy.clock, bounded(self.workload)
        try:
            simulation = clock(workload)(self.layout)
        except NoPlan:
            return found
        return [*found, *warnings_of(self.workload, self.layout, simulation, clock)]

    def always(self) -> list[str]:
        """Return the warnings that need no prediction of the run."""
        checked = self.requests
        rates = dict.fromkeys(
            filter(None, map(lower_rate, checked))
        )  # a start for many is said once
        return [*self.workloads.model.skipped, *unread(self.workload), *rates, *repeated(checked)]

    def _lay_out(self, requests: Sequence[Request]) -> tuple[Workload, Division]:
        endless = [request.num_frames is None for request in requests]
        counts = replica_counts(self.strategy.data, self.world_size, endless)
        predicted = counts != [1]
        found: list[tuple[Workload, Division]] = []
        refusal: ConfigurationError | None = None
        for count in counts:
            try:
                workload, layout = self._lay_out_replica(requests, count)
            except ConfigurationError as error:  # degrees that were given need other numbers
                refusal = refusal or error
                continue
            replicas = Replicas.one([request.index for request in requests])
            if predicted:
                replicas = self._assign(requests, layout, count)
            found.append((workload, Division(layout, replicas)))
        if not found:
            assert refusal is not None
            raise refusal
        self.divisions = [division for _, division in found]
        if len(found) > 1:
            found = [one for one in found if self._fits(*one)] or found
        best = best_division([division for _, division in found])
        return next(one for one in found if one[1] is best)

    def _lay_out_replica(self, requests: Sequence[Request], count: int) -> tuple[Workload, Layout]:
        """Return the longest request and the layout of one of so many replicas."""
        workload = self.workloads.of(longest(requests))
        workload = replace(workload, requests=-(-len(requests) // count))
        size = self.world_size // count
        if self.world_size > 1:  # one device needs no prediction, and this takes about a second
            workload = self._predictable(workload)
        layout = choose_decoders(
            size,
            workload,
            self.strategy.decode_devices,
            lambda ranks: self.strategy.layout(ranks, workload),
            self.strategy.clock,
        )
        if self.strategy.aco:
            text = workload.spec.text_tokens > 0
            sparse = workload.spec.sparse is not None
            layout = with_co_attention(layout, text_in_attention=text, sparse=sparse)
        check_layout(type(self.strategy).__name__, layout, workload, size, count)
        return workload, layout

    def _predictable(self, workload: Workload) -> Workload:
        """Return a workload with its operations counted, and the bytes of a layer's weights."""
        size = workload.height, workload.width
        if size not in self._flops:
            self._flops[size] = self.workloads.counted(workload).flops
        workload, model = replace(workload, flops=self._flops[size]), self.workloads.model
        weights = model.count_weights()
        if weights is None or model.generation_config.offload == "layers":
            return workload
        packed = model.generation_config.quantization.transformer is not None
        item = 1 if packed else workload.item_bytes
        return replace(workload, layer_bytes=max(weights.layers) * item)

    def _assign(self, requests: Sequence[Request], layout: Layout, count: int) -> Replicas:
        """Return who makes what, by what each request takes, or by its size where nobody knows."""
        known: dict[tuple[object, ...], float] = {}
        seconds: dict[int, float] = {}
        try:
            for request in requests:
                workload = self.workloads.of(request)
                key = workload.video, workload.height, workload.width
                if workload.latent_frames is not None and key not in known:
                    predictable = self._predictable(workload)
                    known[key] = request_seconds(predictable, layout, self.strategy.clock)
                seconds[request.index] = known.get(key, math.inf)
        except NoPlan:
            sizes = {one.index: _size(one) for one in requests}
            return replace(assign(sizes, count), seconds=())
        found = assign(seconds, count)
        return found if math.isfinite(sum(found.seconds)) else replace(found, seconds=())

    def _fits(self, workload: Workload, division: Division) -> bool:
        """Whether every rank holds what the longest request needs."""
        held = self.memory.of(workload, division.layout)
        return all(memory.peak <= workload.hardware.memory for memory in held)

    def _settle(self) -> tuple[Workload, Division]:
        if self._settled is None:
            raise RuntimeError("the layout is made by check, for the requests of the run")
        return self._settled


def _size(request: Request) -> float:
    """Return the pixels of all video frames of a request."""
    frames = math.inf if request.num_frames is None else request.num_frames
    return frames * request.height * request.width
