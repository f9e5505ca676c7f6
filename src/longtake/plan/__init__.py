"""Tasks as data: what is computed, said without tensors and without processes."""

from longtake.plan.task import FrameRange, Neighbor, Task

__all__ = ["FrameRange", "Neighbor", "Task"]
