"""Attention co-processing: decode ranks with nothing to decode attend some of the mesh's heads.

PipeDiT's Aco (AAAI 2026, section 3.3). Attention is independent for each head, so who attends a
head cannot be seen in the result. The unit is the micro-batch: for each, the output rank decides
how many heads of every rank are given away, 0 while a decode rank has something to decode or where
the transfer would take longer than it saves. The decision is the operand of the action ``Decide``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from longtake.comm.communicator import Communicator
from longtake.comm.device_queue import settle
from longtake.comm.headers import header_of, of_header
from longtake.comm.mailboxes import Inbox, Outbox
from longtake.comm.p2p import Channel, Delivery
from longtake.models import Kernel
from longtake.strategies.pipedit.head_share import HeadShare, Rates

_SIZES: Final = 4
"""Sizes on their way to a decode rank: each is read by the micro-batch after next."""


@dataclass(frozen=True, slots=True)
class CoAttentionChannels:
    """What ranks that attend together are connected with. Making it is collective.

    Args:
        sizes: Shapes of operands, on the CPU.
        operands: Queries, keys and values, to the decode ranks.
        results: What attention gives, back.
    """

    sizes: Channel
    operands: Channel
    results: Channel

    @classmethod
    def between(cls, communicator: Communicator) -> CoAttentionChannels:
        """Make the channels."""
        return cls(communicator.host_channel(), communicator.channel(), communicator.channel())


@final
class HeadDecision:
    """Decides for the whole mesh (output rank).

    Args:
        share: Chooses from what was measured.
        is_idle: Whether no decode rank has anything to decode.
    """

    def __init__(self, share: HeadShare, is_idle: Callable[[], bool]) -> None:
        self._share = share
        self._is_idle = is_idle

    def heads(self, size: tuple[int, ...]) -> int:
        """Return how many heads each rank gives away in a micro-batch of a size."""
        return self._share.heads(size) if self._is_idle() else 0

    def measured(self, size: tuple[int, ...], rates: Rates) -> None:
        """Take the seconds that a micro-batch's attention took."""
        self._share.measured(size, rates)


@final
class CoAttention:
    """A rank of the mesh that gives heads away.

    Args:
        communicator: The ranks of the run.
        channels: To and from the decode rank.
        helper: The decode rank.
        decision: How many heads; ``None`` on ranks that receive what the output rank decides.
    """

    def __init__(
        self,
        communicator: Communicator,
        channels: CoAttentionChannels,
        helper: int,
        decision: HeadDecision | None,
    ) -> None:
        self._communicator = communicator
        self._channels = channels
        self._helper = helper
        self._decision = decision
        self._sizes = Outbox(communicator, channels.sizes, helper, _SIZES, "sizes")
        self._sending: deque[Delivery] = deque()

    def decide(self, size: tuple[int, ...]) -> int:
        """Return how many heads each rank gives away in a micro-batch of a size (output rank)."""
        assert self._decision is not None
        return self._decision.heads(size)

    def kernel(self, kernel: Kernel, calls: int, size: tuple[int, ...], heads: int) -> Kernel:
        """Return the attention kernel of one micro-batch.

        Collective: every rank of the mesh calls it for the same micro-batchs in the same order,
        and calls the kernel ``calls`` times, each time with operands of the same shapes.

        Args:
            kernel: That of one device.
            calls: Layers of the micro-batch.
            size: What tells micro-batchs of different cost apart.
            heads: How many heads are given away: as was decided.
        """
        spent: list[Rates] = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if heads and not spent:
                given = (tensor[:, :, -heads:] for tensor in (q, k))
                self._sizes.send(torch.stack([header_of(one) for one in given]))
            out, rates = self._attend(kernel, q, k, v, heads)
            spent.append(rates)
            if len(spent) == calls and self._decision is not None:
                self._decision.measured(size, Rates.median(spent))
            return out

        return attend

    def _attend(
        self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, heads: int
    ) -> tuple[Tensor, Rates]:
        start = _now(q)
        own = q.shape[2] - heads
        if not heads:
            out = kernel(q, k, v)
            return out, Rates(own, _now(out) - start, 0, 0.0)
        flat = torch.cat([one[:, :, own:].reshape(-1) for one in (q, k, v)])
        while len(self._sending) > 1:
            self._communicator.wait(self._sending.popleft(), "send heads to attend", self._helper)
        self._sending.append(self._channels.operands.send(flat, self._helper))
        theirs = torch.empty_like(q[:, :, own:], memory_format=torch.contiguous_format)
        delivery = self._channels.results.post(theirs, self._helper)
        mine = kernel(q[:, :, :own], k[:, :, :own], v[:, :, :own])
        own_seconds = _now(mine) - start
        self._communicator.wait(delivery, "receive attended heads", self._helper)
        rates = Rates(own, own_seconds, heads, _now(mine) - start)
        return torch.cat((mine, theirs), dim=2), rates


@final
class CoAttentionHelper:
    """A decode rank that attends.

    Args:
        communicator: The ranks of the run.
        channels: To and from the ranks of the mesh.
        served: Those that give it heads.
        kernel: The attention kernel of one device.
    """

    def __init__(
        self,
        communicator: Communicator,
        channels: CoAttentionChannels,
        served: Sequence[int],
        kernel: Kernel,
    ) -> None:
        self._communicator = communicator
        self._channels = channels
        self._served = served
        self._kernel = kernel
        self._sizes = {rank: Inbox(communicator, channels.sizes, rank, "sizes") for rank in served}
        self._sending: deque[tuple[Delivery, int]] = deque()

    def attend(self, calls: int) -> None:
        """Attend what the ranks give away in one micro-batch.

        Args:
            calls: How often each of them does.
        """
        shapes = {rank: self._shapes(rank) for rank in self._served}
        coming = {rank: self._post(rank, shapes[rank]) for rank in self._served}
        for call in range(calls):
            for rank in self._served:
                flat, delivery = coming[rank]
                self._communicator.wait(delivery, "receive heads to attend", rank)
                if call + 1 < calls:  # the next one travels meanwhile
                    coming[rank] = self._post(rank, shapes[rank])
                queries, keys = shapes[rank]
                sizes = [queries.numel(), keys.numel(), keys.numel()]
                q, k, v = torch.split(flat, sizes)
                out = self._kernel(q.view_as(queries), k.view_as(keys), v.view_as(keys))
                while len(self._sending) > len(self._served):
                    sent, target = self._sending.popleft()
                    self._communicator.wait(sent, "send attended heads", target)
                self._sending.append((self._channels.results.send(out.contiguous(), rank), rank))

    def _shapes(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return empty tensors of a rank's queries and of its keys."""
        headers = self._sizes[rank].receive()
        assert headers is not None
        queries, keys = (of_header(header) for header in headers)
        assert queries is not None
        assert keys is not None
        return queries, keys

    def _post(self, rank: int, shapes: tuple[Tensor, Tensor]) -> tuple[Tensor, Delivery]:
        queries, keys = shapes
        numbers = queries.numel() + 2 * keys.numel()
        flat = torch.empty(numbers, dtype=queries.dtype, device=self._communicator.device)
        return flat, self._channels.operands.post(flat, rank)


def _now(tensor: Tensor) -> float:
    """Return the time, when everything that was queued for the tensor's device is done."""
    settle(tensor.device)
    return time.perf_counter()
