"""RankStrategy: Lightning's side of several ranks, which starts them and lets them meet."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from typing_extensions import override

from longtake.comm.choice import TransportName
from longtake.comm.interfaces import GLOO
from longtake.errors import LongtakeError, RankFailure
from longtake.framework.console.messages import one_line
from longtake.framework.launch.interrupt import StopFlag
from longtake.framework.launch.meeting import Meeting
from longtake.framework.launch.processes import RankProcesses, leave
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import Communicator

ObjectT = TypeVar("ObjectT")

_CONNECTED: Final = timedelta(minutes=1)
"""By then ranks that have met are connected, or cannot be."""
_PARTING: Final = 600.0
"""Seconds for which rank 0 waits for the others to have saved what they hold."""


@final
class RankStrategy(ParallelStrategy):
    """One process per rank, connected as ``Communicator``; nothing of Lightning's own parallelism.

    Lightning's barriers and reductions do nothing here. Every rank runs the same requests, and
    ranks meet in the engine alone, where one that is gone is noticed within seconds; in a barrier
    the others would wait for it for half an hour.

    Args:
        cluster_environment: Says which rank this is, and where they meet.
        transport: What moves tensors between the ranks' devices.
    """

    def __init__(
        self, cluster_environment: ClusterEnvironment, transport: TransportName = "auto"
    ) -> None:
        super().__init__(cluster_environment=cluster_environment)
        # Before CUDA starts: of few hardware queues, computing and transfers would share one.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        self.num_nodes = 1  # set by the trainer
        self.last_actions: Path | None = None
        """Where to write what all ranks did last, should the run fail; set on one rank."""
        self.stop = StopFlag()
        """Set when the run is to end, also while its ranks meet; set by the trainer."""
        self._transport = transport
        self._communicator: Communicator | None = None
        self._store: Store | None = None
        self._meetings = 0
        self._failed = False
        self._patience = _PARTING

    @property
    def communicator(self) -> Communicator:
        """The ranks of the run, as this one sees them."""
        if self._communicator is None:
            raise RuntimeError("the ranks have not met yet: that is when Trainer.predict begins")
        return self._communicator

    @property
    def processes(self) -> RankProcesses:
        """The processes of this machine."""
        assert isinstance(self._launcher, RankProcesses)
        return self._launcher

    @property
    @override
    def root_device(self) -> torch.device:
        """This rank's device."""
        assert self.parallel_devices is not None
        return self.parallel_devices[self.local_rank]

    @property
    def num_processes(self) -> int:
        """Ranks on each node."""
        return len(self.parallel_devices or [])

    @override
    def _configure_launcher(self) -> None:
        # Also where processes are there already: the launcher compares their number.
        assert self.cluster_environment is not None
        self._launcher = RankProcesses(self.cluster_environment, self.num_processes, self.num_nodes)

    def set_world_ranks(self) -> None:
        """Tell Lightning's environment which rank this is."""
        environment = self.cluster_environment
        assert environment is not None
        environment.set_global_rank(self.node_rank * self.num_processes + self.local_rank)
        environment.set_world_size(self.num_nodes * self.num_processes)

    @override
    def setup_environment(self) -> None:
        """Take the device, and meet the other ranks."""
        super().setup_environment()
        self.set_world_ranks()
        self._failed, self._patience = False, _PARTING
        environment = self.cluster_environment
        assert environment is not None
        self._meet(environment.main_address, environment.main_port)
        self._communicator = Communicator.connect(
            self.root_device,
            CHANNELS,
            abandon=self._abandon,
            transport=self._transport,
            report=self._report,
        )
        self.processes.met.set()
        if self.global_rank == 0 and self._transport == "auto":
            name = self._communicator.transport.name
            sys.stderr.write(f"longtake: {self.world_size} ranks, connected by {name}\n")

    def _meet(self, host: str, port: int) -> None:
        """Join the process group. Its communicators are made later, by those who need them."""
        rank, world_size = self.global_rank, self.world_size
        if self._store is None:
            # One store for all runs of this process: its port would not be free again at once.
            self._store = Meeting(
                host=host,
                port=port,
                rank=rank,
                world_size=world_size,
                one_machine=self.num_nodes == 1,
                stop=self.stop,
                abandon=self._abandon,
            ).meet()
        self._meetings += 1
        try:
            dist.init_process_group(
                "gloo",  # for the hosts; the transport makes its own groups
                store=PrefixStore(f"longtake/{self._meetings}", self._store),
                rank=rank,
                world_size=world_size,
                timeout=_CONNECTED,
            )
        except RuntimeError as error:  # gloo has no other class
            raise RankFailure(
                f"rank {rank} cannot connect to the others through the network interface "
                f"{os.environ[GLOO]} ({one_line(str(error))[:200]}); set {GLOO} on each machine to "
                f"the one by which the others reach it, and let all ports pass between them."
            ) from error

    def _report(self, sentence: str) -> None:
        """Say what takes too long."""
        sys.stderr.write(f"longtake: warning: {sentence}\n")

    def _abandon(self, cause: str) -> None:
        """End this process from another thread: it hangs, and the run is over."""
        self._write_last_actions()
        sys.stderr.write(f"longtake: error: rank {self.global_rank} hangs, and {cause}.\n")
        leave(1)

    def _write_last_actions(self) -> None:
        if self.last_actions is None or self._communicator is None:
            return
        with suppress(OSError):  # what ended the run is the one to show
            self.last_actions.write_text(
                "".join(f"{o}\n" for o in self._communicator.last_actions())
            )

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Tell the other ranks why they cannot go on."""
        self._failed = True
        if isinstance(exception, KeyboardInterrupt):
            self._patience = 0.0  # a second order: at once
        if self._communicator is not None and not isinstance(exception, RankFailure):
            with suppress(RuntimeError, OSError):  # the error on its way is the one to show
                self._communicator.fail(_said(exception))
        self._write_last_actions()

    @override
    def teardown(self) -> None:
        """Leave the others, rank 0 as the last; nobody waits for one that is gone."""
        assert self.accelerator is not None
        if self._communicator is not None:
            self._communicator.close(self._patience)
            if self._failed:
                self._communicator.abort()
            else:
                dist.destroy_process_group()
            self._communicator = None
        if self._failed:
            return  # the accelerator's would give memory back, which waits for transfers
        self.precision_plugin.teardown()
        self.accelerator.teardown()

    @override
    def model_to_device(self) -> None:
        """Do nothing: the engine has put every weight where it belongs."""

    @override
    def barrier(self, name: str | None = None) -> None:
        """Do nothing; see the class."""

    @override
    def broadcast(self, obj: ObjectT, src: int = 0) -> ObjectT:
        """Return this rank's own object; see the class."""
        return obj

    @override
    def reduce(
        self, tensor: Tensor | Any, group: Any | None = None, reduce_op: Any | None = "mean"
    ) -> Tensor | Any:
        """Return this rank's own tensor; see the class."""
        return tensor


def _said(exception: BaseException) -> str:
    text = one_line(str(exception)).removesuffix(".")
    if isinstance(exception, LongtakeError):
        return text
    return f"{type(exception).__name__}: {text}"
