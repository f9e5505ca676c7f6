"""Handshake of two ranks over a transport: whether it works here, and how fast.

``python -m longtake.comm.handshake TRANSPORT RANK PORT``, once for rank 0 and once for rank 1, on
one machine; rank 0 prints microseconds of a small message and gigabytes per second of a large one.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Final, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from longtake.comm.choice import TransportName, make_transport
from longtake.comm.p2p import Channel, Delivery

_TURNS: Final = 10
_SMALL: Final = 64
_LARGE: Final = 1 << 24
_PATIENCE: Final = timedelta(seconds=30)


def handshake(name: TransportName, rank: Literal[0, 1], port: int) -> tuple[float, float]:
    """Send messages to and fro, and check what arrives. Collective, in processes of their own.

    Args:
        name: The transport.
        rank: This rank.
        port: At which rank 0 listens, on this machine.

    Returns:
        Seconds of a small message, and bytes per second of a large one.

    Raises:
        RuntimeError: Something else has arrived than was sent.
    """
    store = TCPStore("127.0.0.1", port, 2, rank == 0, _PATIENCE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=_PATIENCE)
    transport = make_transport(name, _device(name, rank), store)
    there, back = transport.channel(), transport.channel()
    channels = (there, back) if rank == 0 else (back, there)
    device = _device(name, rank)
    small = min(_to_and_fro(channels, _message(_SMALL, device), 1 - rank) for _ in range(_TURNS))
    large = min(_to_and_fro(channels, _message(_LARGE, device), 1 - rank) for _ in range(_TURNS))
    dist.barrier()
    return small / 2, 2 * _LARGE / max(large - small, 1e-9)


def _device(name: TransportName, rank: int) -> torch.device:
    if name == "gloo" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def _message(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=torch.uint8, device=device)


def _to_and_fro(channels: tuple[Channel, Channel], sent: Tensor, other: int) -> float:
    """Return the seconds until both ranks have what the other one has sent."""
    out, back = channels
    taken = torch.zeros_like(sent)
    start = time.perf_counter()
    for delivery in (back.post(taken, other), out.send(sent, other)):
        _through(delivery)
    seconds = time.perf_counter() - start
    if not torch.equal(taken, sent):
        raise RuntimeError("another message arrived than was sent")
    return seconds


def _through(delivery: Delivery) -> None:
    while not delivery.wait(1.0):
        pass


def main(arguments: list[str]) -> None:
    """Be a rank; rank 0 prints what it measures."""
    name, rank, port = arguments
    seconds, rate = handshake(
        cast("TransportName", name), cast("Literal[0, 1]", int(rank)), int(port)
    )
    if rank == "0":
        sys.stdout.write(f"{seconds * 1e6:.0f} {rate / 1e9:.2f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
