"""The serial run: the meaning of every other strategy, and its oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.runtime.block_queue import BlockQueue
from longtake.strategies.runtime.denoising import BlockDone, Denoising, Progress, TaskDone
from longtake.strategies.runtime.task_forward import TaskForward


@final
class SingleDevice(ParallelStrategy):
    """Run the tasks one after another on one device; guidance branches as one batch.

    Args:
        decode_devices: Further devices that decode finished blocks and do nothing else: one per
            video, or several with ``model.vae_tile``.
        aco: PipeDiT's attention co-processing: those with nothing to decode attend some of the
            heads, as many as are measured to win. To rounding the same video.
    """

    def __init__(self, decode_devices: int = 0, aco: bool = False) -> None:
        self.decode_devices = decode_devices
        self.aco = aco

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        if world_size != 1:
            raise ConfigurationError(
                f"the strategy SingleDevice denoises on 1 device, but {world_size} were asked for; "
                f"set trainer.devices to 1, let decode_devices decode, or choose a parallel "
                f"strategy."
            )
        return Layout.serial(workload.spec.layers, workload.branches)

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        forward, layers = TaskForward(work), layout.layers(rank)
        queue = BlockQueue(work)
        for task in work.tasks:
            window = work.cache.window(task)
            hidden = forward.embed(task, window, queue.latents(task, window))
            hidden = forward.layers(task, window, hidden, layers)
            prediction = work.combine(task, forward.predict(task, window, hidden))
            finished = queue.advance(task, prediction)
            yield TaskDone(task)
            if finished is not None:
                yield BlockDone(task.block, task.frames, finished)
