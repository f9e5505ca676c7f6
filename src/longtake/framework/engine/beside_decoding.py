"""Decoding beside denoising, on one rank: a thread that has blocks and gives video frames."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, final

import torch
from typing_extensions import override

from longtake.framework.engine.decoding import LOOK, Decoded, DecodedVideo, Decoding, emitted_by
from longtake.framework.engine.worker import Job, Worker
from longtake.plan.ir.actions import Decode, Finish
from longtake.plan.ir.run import BetweenTasks
from longtake.plan.layout import Layout
from longtake.strategies import BlockDone
from longtake.task import Task

_ITEMS: Final = 32
"""Video frames that are not taken yet, with the actions that made them: 16 latent frames' worth."""
_BLOCKS: Final = 2
"""Blocks that are being decoded, wait for it, or have frames that wait to be taken."""


@final
class BesideDecoding(Decoding):
    """Decodes on this rank in a thread beside its tasks, for CPUs: neither keeps all cores busy.

    The frames are those of decoding between tasks: a thread of its own has as many OpenMP threads.
    They are yielded as soon as they are asked for, which is between tasks.

    Args:
        video: Decodes it, in the thread.
        layout: Of one rank.
    """

    def __init__(self, video: DecodedVideo, layout: Layout) -> None:
        self._video = video
        self._between = BetweenTasks(layout)
        self._worker = Worker("longtake-decode", _BLOCKS + 1)
        self._decoded: queue.Queue[Decoded | BaseException | None] = queue.Queue(_ITEMS)
        self._threads = torch.get_num_threads()
        self._open = 0
        self._ended = self._finishing = self._given_up = False

    @property
    @override
    def has_room(self) -> bool:
        return self._open < _BLOCKS

    @override
    def after_task(self) -> Iterator[Decoded]:
        yield from ()

    @override
    def take(self, task: Task, block: BlockDone) -> Iterator[Decoded]:
        actions = list(self._between.after_block(emitted_by(task, block)))
        self._give(partial(self._video.take, block.block, block.latents), actions)
        yield from ()

    @override
    def end(self, next_block: int | None = None) -> None:
        self._ended = True

    @override
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        if self._ended and not self._finishing:
            self._finishing = True
            self._give(lambda: None, list(self._between.end()))
        while self._open:
            try:
                item = self._decoded.get(patient, LOOK)
            except queue.Empty:
                break
            match item:
                case None:
                    self._open -= 1
                case BaseException():
                    raise item
                case _:
                    yield item
        if self.is_done:
            self._worker.close()

    @property
    @override
    def is_done(self) -> bool:
        return self._finishing and not self._open

    @override
    def close(self) -> None:
        self._given_up = True
        self._worker.close()

    def _give(self, begin: Job, actions: Sequence[Decode | Finish]) -> None:
        """Have a block decoded, or what is left of the video: what ``None`` ends."""
        self._open += 1
        self._worker.give(partial(self._decode, begin, actions))

    def _decode(self, begin: Job, actions: Sequence[Decode | Finish]) -> None:
        try:
            # A new thread has what the environment says, until PyTorch's first loop in it.
            torch.set_num_threads(self._threads)
            begin()
            for action in actions:
                if self._given_up:
                    return
                with torch.no_grad():  # which holds for one thread
                    for item in self._video.do(action):
                        self._put(item)
        except BaseException as error:  # raised where the frames before it have been taken
            self._put(error)
            self._given_up = True
        self._put(None)

    def _put(self, item: Decoded | BaseException | None) -> None:
        """Hand an item over as soon as there is room, unless nobody wants it any more."""
        while not self._given_up:
            with suppress(queue.Full):
                self._decoded.put(item, timeout=LOOK)
                return
