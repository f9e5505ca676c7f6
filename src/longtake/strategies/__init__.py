"""Parallel strategies: where layers, heads, tokens and guidance branches run."""

from longtake.plan.job import Job
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis, Mesh
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.dual_paral import DualParal
from longtake.strategies.forward import TaskForward
from longtake.strategies.peers import Peers
from longtake.strategies.queue import BlockQueue
from longtake.strategies.sequence_parallel import SequenceParallel
from longtake.strategies.single_device import SingleDevice
from longtake.strategies.work import ActionDone, BlockDone, Denoising, Guidance, Progress, TaskDone

__all__ = [
    "ActionDone",
    "Axis",
    "BlockDone",
    "BlockQueue",
    "Denoising",
    "DualParal",
    "Guidance",
    "Job",
    "Layout",
    "Mesh",
    "ParallelStrategy",
    "Peers",
    "Progress",
    "SequenceParallel",
    "SingleDevice",
    "TaskDone",
    "TaskForward",
]
