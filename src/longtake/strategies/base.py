"""The contract of a parallel strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from longtake.models import BackboneSpec
from longtake.strategies.mesh import Mesh
from longtake.strategies.work import Denoising, Progress


class ParallelStrategy(ABC):
    """Decides where layers, heads, tokens and guidance branches run; never what is computed.

    Serial semantics: whatever the strategy, the blocks are those that running the tasks one
    after another, in the schedule's order, on one device gives.
    """

    @abstractmethod
    def mesh(self, world_size: int, spec: BackboneSpec) -> Mesh:
        """State the mesh for ``world_size`` ranks. Pure; called before any weight is read.

        Raises:
            ConfigurationError: The degrees are impossible; names the possible ones.
        """

    @abstractmethod
    def layers(self, mesh: Mesh, rank: int, spec: BackboneSpec) -> range:
        """Return the layers that ``rank`` holds, so that only those are read from disk. Pure."""

    @abstractmethod
    def run(self, work: Denoising, mesh: Mesh, rank: int) -> Iterator[Progress]:
        """Run every task and yield progress.

        The output coordinate yields ``TaskDone`` for every task in the schedule's order, and
        ``BlockDone`` right after a block's last task, so blocks come in the order of time. Other
        ranks yield ``TaskDone`` for the tasks that they took part in, and no block.

        Collective: all ranks of the mesh must call it for the same requests in the same order and
        exhaust the iterator. To stop early, all of them close it after the same task.

        Args:
            work: This rank's view of the request.
            mesh: From ``mesh``.
            rank: Global rank.
        """
