"""Parallel strategies: where layers, heads, tokens and guidance branches run."""

from longtake.strategies.base import ParallelStrategy
from longtake.strategies.forward import TaskForward
from longtake.strategies.mesh import Axis, Mesh
from longtake.strategies.queue import BlockQueue
from longtake.strategies.single_device import SingleDevice
from longtake.strategies.work import BlockDone, Denoising, Guidance, Progress, TaskDone

__all__ = [
    "Axis",
    "BlockDone",
    "BlockQueue",
    "Denoising",
    "Guidance",
    "Mesh",
    "ParallelStrategy",
    "Progress",
    "SingleDevice",
    "TaskDone",
    "TaskForward",
]
