"""Host messages: what all ranks say to one another outside of a video, through a gloo group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from longtake.comm.headers import header_of, of_header


def share(tensor: Tensor | None, host: dist.ProcessGroup) -> Tensor:
    """Return rank 0's ``tensor`` (any shape and dtype, on the CPU) on every rank. Collective.

    Args:
        tensor: What rank 0 shares; ``None`` on the others.
        host: All ranks.
    """
    header, first = header_of(tensor), dist.get_global_rank(host, 0)
    dist.broadcast(header, first, group=host)
    tensor = of_header(header) if tensor is None else tensor
    assert tensor is not None
    tensor = tensor.contiguous()
    if tensor.numel():
        # As bytes: gloo does not know every dtype.
        dist.broadcast(tensor.reshape(-1).view(torch.uint8), first, group=host)
    return tensor


def gather(text: str, host: dist.ProcessGroup) -> list[str]:
    """Return every rank's ``text`` on rank 0, and nothing elsewhere. Collective.

    Args:
        text: This rank's.
        host: All ranks.
    """
    rank, world_size = dist.get_rank(host), dist.get_world_size(host)
    first = dist.get_global_rank(host, 0)
    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(lengths, torch.tensor([len(data)]), group=host)
    padded = torch.zeros(1 + max(int(length) for length in lengths), dtype=torch.uint8)
    padded[: len(data)] = data
    texts = [torch.empty_like(padded) for _ in lengths] if rank == 0 else []
    dist.gather(padded, texts or None, first, group=host)
    return [
        bytes(data[: int(length)].tolist()).decode()
        for data, length in zip(texts, lengths, strict=False)
    ]
