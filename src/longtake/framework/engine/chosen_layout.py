"""Layout of a run, chosen: which rank holds and runs what, for the requests that were checked."""

from __future__ import annotations

import json
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
from longtake.models.loading.checksums import check_alike
from longtake.plan.check.layouts import check_layout
from longtake.plan.check.methods import check_method, unread
from longtake.plan.cost.simulator import bounded
from longtake.plan.layout import Layout
from longtake.plan.search.decoders import choose_decoders, with_co_attention
from longtake.plan.search.layouts import warnings_of
from longtake.plan.workload import Workload
from longtake.strategies import Communicator, ParallelStrategy


@final
class ChosenLayout:
    """One layout for all requests of a run, made when the first of them are checked.

    Every rank makes the same one by itself.

    Args:
        workloads: What the requests are to the model.
        strategy: Where things run.
        world_size: Number of ranks.

    Attributes:
        memory: What ranks hold.
    """

    def __init__(self, workloads: Workloads, strategy: ParallelStrategy, world_size: int) -> None:
        self.workloads = workloads
        self.strategy = strategy
        self.world_size = world_size
        self.memory = RunMemory(workloads.model)
        self._checked: set[Request] = set()
        self._settled: tuple[Workload, Layout] | None = None

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
        model = self.workloads.model
        for request in requests:
            with naming(request):
                check_request(request, model.spec, model.generation_config.scheduler)
                check_schedule(request, model.spec, model.generation_config.scheduler)
                check_start(request, model.spec)
                check_pictures(request, model.spec, model.generation_config.scheduler)
                check_method(self.workloads.of(request))
        if self._settled is None:
            self._settled = self._lay_out(longest(requests), len(requests))
            check_merges(model.attention, self.layout)
            check_reuse(model.reuse, self.layout)
        for request in requests:
            with naming(request):
                workload = self.workloads.of(request)
                self.strategy.check(self.layout, workload)
                self.memory.check(workload, self.layout, starts=request.encodes_frames)
        self._checked.update(requests)

    def join(self, communicator: Communicator) -> None:
        """Compare the ranks' layouts, and settle what depends on their links. Collective, once.

        Raises:
            ConfigurationError: The ranks' machines are so unlike that their layouts differ, or
                the commits or files of the model that they found.
        """
        workload, layout = self._settle()
        model = self.workloads.model
        # In one message: where rank 0 refuses, no other rank waits for a second one.
        files = dict(model.checksums()) if communicator.world_size > 1 else {}
        own = json.dumps([str(layout), model.folder.revision or "", files])
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
        communicator.make_groups(layout.groups)
        if model.reuse is not None:
            communicator.make_groups(layout.deciding_groups)
        self._settled = workload, self.strategy.connected(layout, workload, communicator)

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
        found = self.strategy.alternatives(self.world_size - decoders, self.counted_workload())
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
        checked = sorted(self._checked, key=lambda request: request.index)
        rates = dict.fromkeys(
            filter(None, map(lower_rate, checked))
        )  # a start for many is said once
        return [*self.workloads.model.skipped, *unread(self.workload), *rates, *repeated(checked)]

    def _lay_out(self, request: Request, requests: int) -> tuple[Workload, Layout]:
        model, workload = self.workloads.model, self.workloads.of(request)
        workload = replace(workload, requests=requests)
        if self.world_size > 1:  # one device needs no prediction, and this takes about a second
            workload = self.workloads.counted(workload)
            weights = model.count_weights()
            if weights is not None and model.generation_config.offload != "layers":
                packed = model.generation_config.quantization.transformer is not None
                item = 1 if packed else workload.item_bytes
                workload = replace(workload, layer_bytes=max(weights.layers) * item)
        layout = choose_decoders(
            self.world_size,
            workload,
            self.strategy.decode_devices,
            lambda ranks: self.strategy.layout(ranks, workload),
            self.strategy.clock,
        )
        if self.strategy.aco:
            text = workload.spec.text_tokens > 0
            sparse = workload.spec.sparse is not None
            layout = with_co_attention(layout, text_in_attention=text, sparse=sparse)
        check_layout(type(self.strategy).__name__, layout, workload, self.world_size)
        return workload, layout

    def _settle(self) -> tuple[Workload, Layout]:
        if self._settled is None:
            raise RuntimeError("the layout is made by check, for the requests of the run")
        return self._settled
