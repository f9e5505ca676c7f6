"""Parallel strategies: where layers, heads, tokens and guidance branches run."""

from longtake.comm.communicator import Communicator
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis, Mesh
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.card import StrategyCard
from longtake.strategies.dual_paral import DualParal
from longtake.strategies.planned import PlannedStrategy
from longtake.strategies.runtime.block_queue import BlockQueue
from longtake.strategies.runtime.denoising import (
    ActionDone,
    BlockDone,
    Denoising,
    Progress,
    TaskDone,
)
from longtake.strategies.runtime.guided_blocks import GuidedBlocks
from longtake.strategies.runtime.task_forward import TaskForward
from longtake.strategies.sequence_parallel import SequenceParallel
from longtake.strategies.single_device import SingleDevice

__all__ = [
    "ActionDone",
    "Axis",
    "BlockDone",
    "BlockQueue",
    "Communicator",
    "Denoising",
    "DualParal",
    "GuidedBlocks",
    "Layout",
    "Mesh",
    "ParallelStrategy",
    "PlannedStrategy",
    "Progress",
    "SequenceParallel",
    "SingleDevice",
    "StrategyCard",
    "TaskDone",
    "TaskForward",
    "Workload",
]
