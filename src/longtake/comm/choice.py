"""Choice of a transport: the one that was asked for, or the fastest that all ranks can use."""

from __future__ import annotations

import socket
from typing import Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from longtake.comm.gloo import GlooTransport
from longtake.comm.nccl import NcclTransport
from longtake.comm.staged import StagedTransport
from longtake.comm.transport import Transport
from longtake.errors import ConfigurationError, RankFailure

TransportName: TypeAlias = Literal["auto", "gloo", "nccl", "staged"]
"""What users may ask for."""


def check_transport(name: TransportName, device_type: str) -> None:
    """Refuse a transport that ranks on such devices cannot use, before any of them starts.

    Args:
        name: What was asked for.
        device_type: Of the ranks' devices: ``cpu``, ``cuda``.

    Raises:
        ConfigurationError: Names one that they can.
    """
    if name not in get_args(TransportName):
        raise ConfigurationError(
            f"trainer.transport is {name!r}; it is one of {', '.join(get_args(TransportName))}."
        )
    if name == "gloo" and device_type != "cpu":
        raise ConfigurationError(
            f"trainer.transport is gloo, which moves tensors on CPUs, but the ranks run on "
            f"{device_type}; staged goes through gloo there, auto takes the fastest."
        )
    if name == "nccl" and device_type != "cuda":
        raise ConfigurationError(
            f"trainer.transport is nccl, which connects GPUs, but the ranks run on {device_type}; "
            f"auto takes gloo there."
        )
    if name == "nccl" and not dist.is_nccl_available():
        raise ConfigurationError(
            f"trainer.transport is nccl, which this build of PyTorch ({torch.__version__}) does "
            f"not have; auto takes staged here."
        )


def make_transport(name: TransportName, device: torch.device, store: Store) -> Transport:
    """Make the transport of a run. Collective: all ranks, with the same name.

    ``auto`` is gloo on CPUs, NCCL where every rank has a GPU to itself, staged elsewhere.

    Args:
        name: What was asked for.
        device: This rank's.
        store: The run's key-value store.

    Raises:
        RankFailure: NCCL does not work here.
    """
    if name == "auto":
        name = _fastest(device, PrefixStore("longtake/transport", store))
    match name:
        case "gloo":
            return GlooTransport()
        case "nccl":
            return _nccl(device)
        case _:
            return StagedTransport(device)


def _nccl(device: torch.device) -> Transport:
    try:
        return NcclTransport(device)
    except RuntimeError as error:  # torch's backends have no other class
        raise RankFailure(
            f"rank {dist.get_rank()} cannot be connected by NCCL "
            f"({str(error).splitlines()[0][:200]}); trainer.transport staged goes through host "
            f"memory instead."
        ) from error


def _fastest(device: torch.device, store: Store) -> TransportName:
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    store.set(f"device/{rank}", _described(device))
    found = [store.get(f"device/{other}").decode() for other in ranks]
    if all(one == "cpu" for one in found):
        return "gloo"
    apart = len(set(found)) == len(found)
    return "nccl" if apart and not any(one in ("", "cpu") for one in found) else "staged"


def _described(device: torch.device) -> str:
    """Name a device so that two ranks on one can be told; empty where NCCL cannot use it."""
    if device.type != "cuda":
        return device.type if device.type == "cpu" else ""
    if not dist.is_nccl_available():
        return ""
    uuid = torch.cuda.get_device_properties(device).uuid
    return f"{socket.gethostname()} {uuid}"
