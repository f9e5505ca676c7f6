"""Seeds of a run's requests, as rank 0 has drawn and recorded them."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch

from longtake.comm.communicator import Communicator
from longtake.framework.engine.request import Request


def shared_seeds(requests: Iterable[Request], communicator: Communicator) -> dict[int, int]:
    """Return rank 0's seeds, by request: each rank has drawn its own. Collective.

    Args:
        requests: Of the run.
        communicator: Its ranks.
    """
    told = None
    if communicator.rank == 0:
        said = json.dumps([[request.index, request.seed] for request in requests])
        told = torch.tensor(list(said.encode()), dtype=torch.uint8)
    pairs: list[tuple[int, int]] = json.loads(bytes(communicator.share(told).tolist()))
    return dict(pairs)
