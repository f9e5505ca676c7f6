"""Network interfaces: by which one a rank reaches the others, so that gloo and NCCL listen there.

By itself gloo listens where the machine's own name resolves to, which on Debian is the loopback:
ranks of other machines then look for it on their own loopback. The way to the place where the
ranks meet is known to lead to the others.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, final

import psutil

from longtake.errors import ConfigurationError

GLOO: Final = "GLOO_SOCKET_IFNAME"
NCCL: Final = "NCCL_SOCKET_IFNAME"
LOOPBACK: Final = "127.0.0.1"


@final
@dataclass(frozen=True, slots=True)
class Route:
    """A machine's way to the place where ranks meet.

    Args:
        own: The machine's own address on it.
        place: The address at its end, as the machine resolves the name.
    """

    own: str
    place: str

    @classmethod
    def to(cls, host: str, port: int) -> Self:
        """Look the way up; nothing is sent.

        Raises:
            OSError: There is none.
        """
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect(address)
            return cls(str(asked.getsockname()[0]), str(address[0]))

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what ``str`` has written."""
        return cls(*text.split())

    def __str__(self) -> str:
        """Write it for other ranks."""
        return f"{self.own} {self.place}"

    @property
    def is_inside(self) -> bool:
        """Whether it does not leave the machine."""
        return ipaddress.ip_address(self.own.partition("%")[0]).is_loopback


def take_interface(
    routes: Sequence[Route], rank: int, environment: MutableMapping[str, str]
) -> None:
    """Let gloo and NCCL listen where the other ranks reach this one; what the user has set stays.

    Args:
        routes: Of all ranks.
        rank: This rank.
        environment: Of the process, before any group of ranks is made.

    Raises:
        ConfigurationError: It is not known where that is.
    """
    if GLOO not in environment:
        environment[GLOO] = _interface(routes, rank)
    environment.setdefault(NCCL, f"={environment[GLOO]}")  # exactly so, and not as a beginning


def _interface(routes: Sequence[Route], rank: int) -> str:
    """Return the interface that the other ranks reach.

    The first machine may know the place by its loopback, as Debian has it for a machine's own
    name: then it is reached where the others find the place.
    """
    found = dict(_addresses())
    outside = [route.place for route in routes if not route.is_inside]
    wanted = outside if routes[rank].is_inside and outside else [routes[rank].own]
    for address in wanted:
        if address in found:
            return found[address]
    has = ", ".join(f"{name} ({address})" for address, name in found.items())
    raise ConfigurationError(
        f"the other machines reach rank {rank} at {wanted[0]}, which is not an address of this "
        f"machine, so it is not known on which network interface to listen; set {GLOO} to one of "
        f"{has}."
    )


def _addresses() -> Iterator[tuple[str, str]]:
    """Yield this machine's addresses with the names of their interfaces."""
    for name, addresses in psutil.net_if_addrs().items():
        for held in addresses:
            if held.family in (socket.AF_INET, socket.AF_INET6):
                yield held.address.partition("%")[0], name
