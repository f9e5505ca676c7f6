"""Mailbox of a rank: messages of a request's actions, posted, received and sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from longtake.comm.communicator import BLOCKS, TASKS, Communicator
from longtake.comm.p2p import Delivery
from longtake.plan.ir.actions import Kind, Message, Post, Receive, Send
from longtake.plan.ir.text import describe, describe_message

DRAINED = -1
"""What a message of whole numbers holds that only answers a post; one of others holds NaN."""


class Drained(Exception):
    """A message has come that only answers the post: its task will not run.

    Args:
        message: Which one.
    """

    def __init__(self, message: Message) -> None:
        super().__init__(describe_message(message))
        self.message = message


@final
class Mailbox:
    """Messages go on while the rank computes: a post and a send never wait, a receive does.

    Args:
        communicator: The ranks of the run.
        empty: Makes a buffer for a message: its shape and dtype are known from the plan.
    """

    def __init__(self, communicator: Communicator, empty: Callable[[Message], Tensor]) -> None:
        self._communicator = communicator
        self._empty = empty
        self._posted: dict[Message, tuple[Tensor, Delivery, Post]] = {}
        self._sending: deque[tuple[Delivery, Send]] = deque()

    def post(self, action: Post) -> None:
        """Begin to receive a message."""
        tensor = self._empty(action.message)
        delivery = self._communicator.channels[action.message.kind].post(tensor, action.source)
        self._posted[action.message] = (tensor, delivery, action)

    def receive(self, action: Receive) -> Tensor:
        """Wait for a posted message and return it.

        Raises:
            Drained: The request has ended before the message's task, and this answers the post.
        """
        tensor, delivery, _ = self._posted.pop(action.message)
        self._communicator.wait(delivery, describe(action), action.source)
        # A model's own NaN is told apart by asking the run's store.
        if _is_blank(tensor) and self._has_ended(action.message):
            raise Drained(action.message)
        return tensor

    def send(self, action: Send, tensor: Tensor) -> None:
        """Begin to send a message.

        Args:
            action: Which one, and to whom.
            tensor: Of the message's shape, any floating-point dtype and layout.
        """
        while self._sending and self._is_through(*self._sending[0]):
            self._sending.popleft()
        tensor = tensor.to(self._empty(action.message).dtype).contiguous()
        channel = self._communicator.channels[action.message.kind]
        self._sending.append((channel.send(tensor, action.target), action))

    def answer(self, send: Send) -> None:
        """Answer a post for a task that will not run."""
        tensor = self._empty(send.message)
        blank = torch.nan if tensor.is_floating_point() else DRAINED
        self.send(send, tensor.fill_(blank))

    def take_answers(self) -> None:
        """Wait for what answers the posts that are left."""
        for _, delivery, post in self._posted.values():
            self._communicator.wait(delivery, describe(post), post.source)
        self._posted.clear()

    def flush(self) -> None:
        """Wait until everything that was sent is received."""
        for delivery, action in self._sending:
            self._communicator.wait(delivery, describe(action), action.target)
        self._sending.clear()

    def _has_ended(self, message: Message) -> bool:
        end = self._communicator.announced_end(BLOCKS if message.kind is Kind.BLOCK else TASKS)
        return end is not None and message.index >= end

    def _is_through(self, delivery: Delivery, action: Send) -> bool:
        return self._communicator.is_through(delivery, describe(action), action.target)


def _is_blank(tensor: Tensor) -> bool:
    first = tensor.view(-1)[0]
    return bool(torch.isnan(first)) if tensor.is_floating_point() else int(first) == DRAINED
