"""Trainer of Lightning that only predicts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, final, get_type_hints

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from typing_extensions import override

from longtake.comm.choice import TransportName, check_transport
from longtake.comm.launchers import check_launch
from longtake.errors import ConfigurationError
from longtake.framework.arguments import typed
from longtake.framework.callbacks.base import LongtakeCallback, VideoHooks, listens
from longtake.framework.console.comparison_report import check_new
from longtake.framework.console.comparison_report import save as save_choice
from longtake.framework.console.comparison_report import show as show_comparison
from longtake.framework.console.messages import one_line
from longtake.framework.console.plan_files import open_plan, save_plan
from longtake.framework.console.plan_report import notes_of, report_of, show
from longtake.framework.console.quiet import quietly
from longtake.framework.data import PromptData
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.comparison import best_of, compare
from longtake.framework.engine.engine import Engine
from longtake.framework.engine.preflight import check_request
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads, longest
from longtake.framework.launch.deterministic import use_full_precision
from longtake.framework.launch.environment import cluster_environment
from longtake.framework.launch.interrupt import Interrupted, stop_on_interrupt
from longtake.framework.launch.processes import check_command
from longtake.framework.launch.rank_strategy import RankStrategy
from longtake.framework.module import VideoModule
from longtake.framework.standalone_commands import StandaloneCommands
from longtake.models import Placement, open_for_plan
from longtake.plan.cost.profiles import hardware_of
from longtake.plan.cost.profiles import profile as hardware_profile
from longtake.plan.devices import Hardware
from longtake.plan.ir.plan_file import PlanFile
from longtake.strategies import ParallelStrategy, SingleDevice
from longtake.strategies.automatic import Automatic
from longtake.strategies.from_plan import FromPlan
from longtake.tables import Format
from longtake.threads import brief_spins

_CALLBACKS: Final = list[pl.Callback] | pl.Callback | None
"""From a script Lightning's own are taken, and its accelerators."""
_RANKS: Final = 1_024
"""The search for a layout of more takes minutes."""
_SHOWN: Final = 40
"""Digits of a number that are shown."""


@final
class InferenceTrainer(pl.Trainer, StandaloneCommands):
    """Where the run happens: accelerator, devices, strategy.

    Args:
        accelerator: What to run on; ``auto`` takes a GPU where there is one.
        devices: Number of devices on each node.
        num_nodes: Number of nodes.
        strategy: Where layers, heads, tokens and guidance branches run; left out: ``SingleDevice``
            on one device, on several ``DualParal`` where at least two tasks can be under way at
            once (a queue of blocks, context windows) and ``SequenceParallel`` elsewhere.
        transport: What moves tensors between devices: ``gloo`` between CPUs, ``nccl`` between GPUs,
            ``staged`` through pinned host memory and gloo, which also connects ranks that share a
            GPU; ``auto`` takes the fastest that all ranks can use, and says which.
        callbacks: Further callbacks; those with longtake's hooks subclass ``LongtakeCallback``.
        deterministic: Whether a GPU makes the same bits every time: float32 without TF32, and
            only kernels that repeat themselves; slower. A CPU does so anyway.
    """

    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "cuda"] = "auto",
        devices: int = 1,
        num_nodes: int = 1,
        strategy: ParallelStrategy | None = None,
        transport: TransportName = "auto",
        callbacks: list[LongtakeCallback] | LongtakeCallback | None = None,
        deterministic: bool = False,
    ) -> None:
        hints = get_type_hints(InferenceTrainer.__init__)
        hints["accelerator"] |= pl.accelerators.Accelerator
        given = typed(
            "trainer",
            hints | {"callbacks": _CALLBACKS},
            {
                "accelerator": accelerator,
                "devices": devices,
                "num_nodes": num_nodes,
                "strategy": strategy,
                "transport": transport,
                "callbacks": callbacks,
                "deterministic": deterministic,
            },
        )
        devices, num_nodes = given["devices"], given["num_nodes"]
        if devices < 1 or num_nodes < 1 or devices * num_nodes > _RANKS:
            raise ConfigurationError(
                f"trainer.devices is {str(devices)[:_SHOWN]} and trainer.num_nodes "
                f"{str(num_nodes)[:_SHOWN]}; both are at least 1, and no run has more than "
                f"{_RANKS:,} ranks."
            )
        self.ranks, self._nodes = devices * num_nodes, num_nodes
        self._plan: PlanFile | None = None
        self.planned_config: Mapping[str, Any] = {}
        check_launch(devices, num_nodes, os.environ)
        self._given = strategy
        self._transport = transport
        environment = cluster_environment(os.environ)
        try:
            with quietly():
                super().__init__(
                    accelerator=accelerator,
                    devices=devices,
                    num_nodes=num_nodes,
                    strategy="auto" if self.ranks == 1 else RankStrategy(environment, transport),
                    plugins=environment if self.ranks == 1 else None,
                    callbacks=given["callbacks"],
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    use_distributed_sampler=False,
                    # None, not False: what a script has chosen for its process stays.
                    deterministic=deterministic or None,
                    # inference_mode would make CPU (gloo) and GPU runs differ: no_grad everywhere.
                    inference_mode=False,
                    # dtype belongs to the loader: Lightning would cast norms and timesteps.
                    precision="32-true",
                )
        except MisconfigurationException as error:
            if self.ranks > 1:
                check_command(sys.argv)  # Lightning names strategies of its own
            raise ConfigurationError(
                f"trainer.accelerator is {accelerator} and trainer.devices {devices}, which this "
                f"machine cannot give: {one_line(str(error))}"
            ) from error
        self._signal_connector = _NoSignals(self)
        if deterministic:
            use_full_precision()

    def follow(self, path: Path | None) -> None:
        """Do what a plan file says, in place of what the strategy would.

        Args:
            path: The file; ``None`` for the strategy's own plan.

        Raises:
            ConfigurationError: There is no such file, or it is none.
        """
        self._plan = None if path is None else open_plan(path)

    def prepare(
        self,
        model: VideoModule,
        datamodule: PromptData,
        grown: Callable[[Workloads, Sequence[Request]], Sequence[Request]] | None = None,
    ) -> Engine:
        """Refuse everything that can be refused, before any weight is read.

        Args:
            model: How videos are made.
            datamodule: What to make.
            grown: Replaces requests for videos that grow by those for the parts by which they do.

        Raises:
            LongtakeError: The run cannot work.
        """
        check_transport(self._transport, self.strategy.root_device.type)
        engine = Engine(
            model.generation_config,
            self._run_strategy(),
            world_size=self.ranks,
            rank=self.global_rank,
            device=self.strategy.root_device,
            hardware=self._on_nodes(
                hardware_of(self.strategy.root_device, model.generation_config.torch_dtype)
            ),
        )
        datamodule.settle(engine.model.defaults)
        if grown is not None:
            datamodule.replace(grown(engine.workloads, datamodule.requests().items))
        requests = datamodule.predict_dataloader().items
        engine.check(requests)
        model.prepare(engine, requests)
        return engine

    def _on_nodes(self, hardware: Hardware) -> Hardware:
        """Return hardware that knows which ranks are on one node."""
        if self._nodes == 1:
            return hardware
        return replace(hardware, node_size=self.ranks // self._nodes)

    def _run_strategy(self) -> ParallelStrategy:
        """Return the strategy of a run: with the actions of a plan file, where one was given."""
        strategy = self._given or (SingleDevice() if self.ranks == 1 else Automatic())
        return strategy if self._plan is None else FromPlan(strategy, self._plan)

    def attach(self, callbacks: Sequence[VideoHooks] | VideoHooks) -> None:
        """Add callbacks, or one, after those that are there."""
        more = callbacks if isinstance(callbacks, Sequence) else [callbacks]
        self.callbacks.extend(more)  # type: ignore[attr-defined]

    def keep_last_actions(self, path: Path) -> None:
        """Have what all ranks did last written to a file, should the run fail."""
        if isinstance(self.strategy, RankStrategy):
            self.strategy.last_actions = path

    @override
    def predict(  # type: ignore[override]
        self, model: VideoModule, datamodule: PromptData | None = None
    ) -> None:
        """Make the videos.

        Everything that can be refused is refused before any weight is read. Ctrl-C ends the
        current video with a complete file.

        Args:
            model: How videos are made.
            datamodule: What to make.

        Raises:
            LongtakeError: The run cannot work, or would leave nothing.
        """
        datamodule = self._checked(model, datamodule)
        model.stop.clear()
        if model.engine is None:
            with quietly():
                self.prepare(model, datamodule)
        if isinstance(self.strategy, RankStrategy):
            self.strategy.stop = model.stop
        try:
            with (
                quietly(),
                brief_spins(os.environ),
                stop_on_interrupt(model.stop, silent=not self.is_global_zero),
            ):
                super().predict(model, datamodule=datamodule, return_predictions=False)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            self.join(failed=True)
            raise Interrupted(model.stop.signal) from None
        except BaseException:
            self.join(failed=True)
            raise

    def _checked(self, model: object, datamodule: object) -> PromptData:
        """Refuse what only a script can get wrong; return what to make."""
        if not isinstance(model, VideoModule):
            raise ConfigurationError(
                f"predict was given a {type(model).__name__}; it makes videos with a VideoModule, "
                f'such as VideoModule("demo").'
            )
        if not isinstance(datamodule, PromptData):
            given = "nothing" if datamodule is None else f"a {type(datamodule).__name__}"
            raise ConfigurationError(
                f"predict was given {given} to make; give it a PromptData, such as "
                f'PromptData(prompts=["a bird"], num_frames=81).'
            )
        if not listens(self.callbacks):  # type: ignore[attr-defined]
            raise ConfigurationError(
                "no callback takes what predict makes, so it would be lost: "
                'trainer.attach([VideoWriter().to("out/birds")]), or a LongtakeCallback of your '
                "own."
            )
        return datamodule

    def plan(
        self,
        model: VideoModule,
        datamodule: PromptData,
        profile: str | None = None,
        actions: Path | None = None,
        compare: bool = False,
        format: Format = "table",
        save: Path | None = None,
    ) -> None:
        """Print what a run would do: which rank holds which layers, how long it would take.

        Needs no GPU, starts no processes and reads no weights. Of the published models that
        ``longtake models`` lists, neither the files nor the network are needed.

        Args:
            model: How videos are made.
            datamodule: What to make.
            profile: Devices to plan for: ``H200``, ``A100``, ``RTX 4090``, ``cpu``, ..., or a file
                that ``longtake calibrate`` has written; left out: this machine's.
            actions: File for every rank's actions of the longest video, to be read, changed and run
                with ``longtake predict --plan FILE``.
            compare: Print what every strategy, mesh and feature cache would take on as many
                devices, why the others cannot be, and which one to run.
            format: Of what is printed: tables, or JSON for programs.
            save: File for the configuration that compare recommends, ready to run.
        """
        if save is not None and not compare:
            raise ConfigurationError("--save writes what --compare true recommends; give both.")
        if save is not None:
            check_new(save)
        place = Placement(torch.device("cpu"), model.generation_config.torch_dtype)
        resolved = ResolvedModel(model.generation_config, place, open_for_plan)
        hardware = (
            hardware_of(place.device, place.dtype)
            if profile is None
            else hardware_profile(profile, place.dtype)
        )
        strategy = self._run_strategy()
        chosen = ChosenLayout(Workloads(resolved, self._on_nodes(hardware)), strategy, self.ranks)
        for line in notes_of(resolved.folder):
            sys.stderr.write(f"longtake: {line}\n")
        datamodule.settle(resolved.defaults)
        requests = datamodule.requests().items
        if compare:
            self._compare(chosen, requests, format, save)
            return
        chosen.check(requests)
        if actions is not None:
            save_plan(actions, chosen.layout, chosen.workload, strategy.actions)
        show(report_of(chosen, longest(requests)), format)

    def _compare(
        self, chosen: ChosenLayout, requests: Sequence[Request], format_: Format, save: Path | None
    ) -> None:
        """Print the comparison for the requests, and save what it recommends."""
        model = chosen.workloads.model
        for request in requests:
            check_request(request, model.spec, model.generation_config.scheduler)
        choices = compare(
            chosen.workloads, chosen.memory, longest(requests), self.ranks, requests=requests
        )
        best = best_of(choices, model.generation_config.cache)
        show_comparison(choices, best, model.spec.compression.temporal, format_)
        if save is not None and best is None:
            raise ConfigurationError(
                "nothing can run on these devices, so there is nothing to save."
            )
        if save is not None and best is not None:
            save_choice(save, self.planned_config, best)
            sys.stderr.write(f"longtake: longtake predict --config {save} runs the best of these\n")

    def join(self, *, failed: bool = False) -> None:
        """Wait until the processes that this one has started have ended.

        Args:
            failed: Whether this process has failed, so that the others are not waited for long.

        Raises:
            RankFailure: This process has not failed, but another one has.
        """
        if isinstance(self.strategy, RankStrategy):
            self.strategy.processes.join(failed=failed)


class _NoSignals(_SignalConnector):
    """Leaves signals to ``stop_on_interrupt``.

    Lightning's handler of SIGTERM would kill the other ranks, and wait for them in a collective.
    """

    @override
    def register_signal_handlers(self) -> None:
        pass

    @override
    def teardown(self) -> None:
        pass
