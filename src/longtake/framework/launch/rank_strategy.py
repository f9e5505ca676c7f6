"""RankStrategy: Lightning's side of several ranks, which starts them and lets them meet."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from typing_extensions import override

from longtake.errors import LongtakeError, RankFailure
from longtake.framework.console.messages import one_line
from longtake.framework.launch.processes import RankProcesses, leave
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import Communicator

_MEETING: Final = timedelta(minutes=10)
"""How long the first rank waits for the last one: machines start and import at different times."""
ObjectT = TypeVar("ObjectT")


@final
class RankStrategy(ParallelStrategy):
    """One process per rank, connected as ``Communicator``; nothing of Lightning's own parallelism.

    Lightning's barriers and reductions do nothing here. Every rank runs the same requests, and
    ranks meet in the engine alone, where one that is gone is noticed within seconds; in a barrier
    the others would wait for it for half an hour.
    """

    def __init__(self, cluster_environment: ClusterEnvironment) -> None:
        super().__init__(cluster_environment=cluster_environment)
        self.num_nodes = 1  # set by the trainer
        self._communicator: Communicator | None = None
        self._store: Store | None = None
        self._meetings = 0
        self._failed = False

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
        self._failed = False
        environment = self.cluster_environment
        assert environment is not None
        address = f"{environment.main_address}:{environment.main_port}"
        try:
            self._meet(address)
        except dist.DistError as error:
            raise RankFailure(
                f"rank {self.global_rank} waited for all {self.world_size} ranks to meet at "
                f"{address}, but: {one_line(str(error))[:200]}"
            ) from error
        self._communicator = Communicator.connect(self.root_device, CHANNELS, abandon=self._abandon)

    def _meet(self, address: str) -> None:
        """Join the process group. Its communicators are made later, by those who need them."""
        rank, world_size = self.global_rank, self.world_size
        if self._store is None:
            # One store for all runs of this process: its port would not be free again at once.
            self._store, _, _ = next(
                rendezvous(f"tcp://{address}", rank, world_size, timeout=_MEETING)
            )
        self._meetings += 1
        dist.init_process_group(
            "nccl" if self.root_device.type == "cuda" else "gloo",
            store=PrefixStore(f"longtake/{self._meetings}", self._store),
            rank=rank,
            world_size=world_size,
            timeout=_MEETING,
        )

    def _abandon(self, cause: str) -> None:
        """End this process from another thread: it hangs, and the run is over."""
        sys.stderr.write(f"longtake: error: rank {self.global_rank} hangs, and {cause}.\n")
        leave(1)

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Tell the other ranks why they cannot go on."""
        self._failed = True
        if self._communicator is not None and not isinstance(exception, RankFailure):
            with suppress(RuntimeError, OSError):  # the error on its way is the one to show
                self._communicator.fail(_said(exception))

    @override
    def teardown(self) -> None:
        """Leave the others. Never waits for them: they may be gone."""
        assert self.accelerator is not None
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None
            if not self._failed:
                dist.destroy_process_group()
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
