"""A Lightning trainer that only predicts."""

from __future__ import annotations

import os
from typing import Literal, final

import lightning.pytorch as pl
from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.framework.callbacks.base import LongtakeCallback
from longtake.framework.data import PromptData
from longtake.framework.engine import Engine
from longtake.framework.interrupt import stop_on_interrupt
from longtake.framework.mistakes import one_line
from longtake.framework.module import Generator
from longtake.framework.preflight import check_launch
from longtake.strategies import ParallelStrategy, SingleDevice


@final
class InferenceTrainer(pl.Trainer):
    """Where the run happens: accelerator, devices, strategy.

    Args:
        accelerator: What to run on; ``auto`` takes a GPU where there is one.
        devices: Number of devices on each node.
        num_nodes: Number of nodes.
        strategy: Where layers, heads, tokens and guidance branches run.
        callbacks: Further callbacks; those with longtake's hooks subclass ``LongtakeCallback``.
    """

    def __init__(
        self,
        accelerator: Literal["auto", "cpu", "cuda"] = "auto",
        devices: int = 1,
        num_nodes: int = 1,
        strategy: ParallelStrategy = lazy_instance(SingleDevice),
        callbacks: list[LongtakeCallback] | LongtakeCallback | None = None,
    ) -> None:
        if devices < 1 or num_nodes < 1:
            raise ConfigurationError(
                f"trainer.devices is {devices} and trainer.num_nodes {num_nodes}; both are at "
                f"least 1."
            )
        check_launch(devices * num_nodes, os.environ)
        self.parallel_strategy = strategy
        self.ranks = devices * num_nodes
        try:
            super().__init__(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                callbacks=list(callbacks) if isinstance(callbacks, list) else callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                # inference_mode would make CPU (gloo) and GPU runs differ: no_grad everywhere.
                inference_mode=False,
                # dtype belongs to the loader: Lightning would cast norms and timesteps.
                precision="32-true",
            )
        except MisconfigurationException as error:
            raise ConfigurationError(
                f"trainer.accelerator is {accelerator} and trainer.devices {devices}, which this "
                f"machine cannot give: {one_line(str(error))}"
            ) from error

    def prepare(self, model: Generator, datamodule: PromptData) -> Engine:
        """Refuse everything that can be refused, before any weight is read.

        Raises:
            LongtakeError: The run cannot work.
        """
        engine = Engine(
            model.recipe,
            self.parallel_strategy,
            world_size=self.ranks,
            rank=self.global_rank,
            device=self.strategy.root_device,
        )
        if self.ranks > 1:
            raise ConfigurationError(
                f"trainer.devices times trainer.num_nodes is {self.ranks}, but this version of "
                f"longtake starts one process; set both to 1."
            )
        requests = datamodule.requests().items
        engine.check(requests)
        model.prepare(engine, requests)
        return engine

    def attach(self, callbacks: list[LongtakeCallback]) -> None:
        """Add callbacks after those that are there."""
        self.callbacks.extend(callbacks)  # type: ignore[attr-defined]

    @override
    def predict(  # type: ignore[override]
        self, model: Generator, datamodule: PromptData
    ) -> None:
        """Make the videos.

        Everything that can be refused is refused before any weight is read. Ctrl-C ends the
        current video with a complete file.

        Args:
            model: How videos are made.
            datamodule: What to make.
        """
        model.stop.clear()
        if model.engine is None:
            self.prepare(model, datamodule)
        with stop_on_interrupt(model.stop):
            super().predict(model, datamodule=datamodule, return_predictions=False)
