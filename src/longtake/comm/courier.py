"""Courier: a thread that brings messages through, one after another."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeAlias, final

from torch import Tensor
from typing_extensions import override

from longtake.comm.p2p import Delivery

Bring: TypeAlias = Callable[[], None]
"""Waits, without limit, until a message is through; a ``RuntimeError`` says that it is lost."""


@final
class Courier:
    """Brings messages through in the order in which they are handed over.

    Whoever waits for a transport may have to wait without limit, and without being interrupted (an
    interrupted ``wait`` breaks gloo's connection). So a thread does, and the rank looks at an
    event.
    """

    def __init__(self) -> None:
        self._messages: _Messages = queue.SimpleQueue()
        weakref.finalize(self, self._messages.put, None)  # the thread ends with its channel
        self._thread: threading.Thread | None = None

    def deliver(self, tensor: Tensor, bring: Bring) -> Delivery:
        """Have a message brought through; returns at once."""
        delivery = _Brought(tensor)
        self._messages.put((delivery, bring))
        if self._thread is None:  # most channels are used in one direction, many in none
            self._thread = threading.Thread(
                target=_run, args=(self._messages,), name="longtake-courier", daemon=True
            )
            self._thread.start()
        return delivery

    @staticmethod
    def lost(tensor: Tensor, error: RuntimeError) -> Delivery:
        """Return the delivery of a message that could not even begin."""
        delivery = _Brought(tensor)
        delivery.end(error)
        return delivery


@final
class _Brought(Delivery):
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._through = threading.Event()
        self._error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        """Remember that the message is through, or why it never will be."""
        self._error = error
        self._through.set()

    @override
    def wait(self, seconds: float) -> bool:
        through = self._through.wait(seconds)
        if isinstance(self._error, RuntimeError):  # torch's transports have no other class
            raise ConnectionError(str(self._error).splitlines()[0]) from self._error
        if self._error is not None:
            raise self._error
        return through


_Messages: TypeAlias = queue.SimpleQueue[tuple[_Brought, Bring] | None]


def _run(messages: _Messages) -> None:
    while (message := messages.get()) is not None:
        delivery, bring = message
        try:
            bring()
            delivery.end()
        except Exception as error:  # raised again where the rank waits
            delivery.end(error)
        del message, delivery, bring  # or the last tensor would stay until the next one
