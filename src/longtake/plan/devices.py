"""Devices and links: their speed, and how long a model's parts take on them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """A link between two ranks.

    Args:
        bandwidth: Bytes per second in one direction.
        latency: Seconds until a message's first byte arrives.
    """

    bandwidth: float
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a device and the links between devices do. For choices and predictions, not results.

    Args:
        name: Shown in plans.
        matmul: Operations per second of matrix multiplications in the model's dtype.
        convolution: Operations per second of the VAE's convolutions in fp32.
        bandwidth: Bytes per second of a link in one direction.
        latency: Seconds until a message's first byte arrives.
        launch: Seconds that a micro-batch's stage takes beyond its operations, whatever its size.
        memory: Bytes of a device.
        hiding: Share of a transfer's time that computing hides; 0 where cores that compute do the
            transfer as well.
        memory_bandwidth: Bytes per second from a device's memory: a layer takes no less than its
            weights take to be read.
        half_rate: Tokens at which matrix products reach half of ``matmul``: with n tokens they
            run at n / (n + ``half_rate``) of it.
        attention: Operations per second of attention; 0: as ``matmul``.
        score: Operations that a score of attention is worth besides its products: its exponential.
        passes: Bytes per second of a layer's operations that are no products; infinite where these
            are part of what ``matmul`` does not reach of a peak.
        call: Seconds that an operation takes whatever its size, where the host waits for it.
        unfolding: Bytes per second of the matrices that a CPU unfolds small convolutions to.
        half_channels: Channels at which convolutions reach half of ``convolution``.
        decoder_passes: As ``passes``, of a VAE's.
        cpu: Whether devices are CPUs: one alone decodes beside its tasks, in a thread.
        node_size: Devices of each node; 0: all are on one.
        node_bandwidth: As ``bandwidth``, between nodes.
        node_latency: As ``latency``, between nodes.
    """

    name: str
    matmul: float
    convolution: float
    bandwidth: float
    latency: float
    launch: float
    memory: float
    hiding: float = 1.0
    memory_bandwidth: float = math.inf
    half_rate: float = 0.0
    attention: float = 0.0
    score: float = 0.0
    passes: float = math.inf
    call: float = 0.0
    unfolding: float = math.inf
    half_channels: float = 0.0
    decoder_passes: float = math.inf
    cpu: bool = False
    node_size: int = 0
    node_bandwidth: float = math.inf
    node_latency: float = 0.0

    def rate(self, tokens: int) -> float:
        """Return the operations per second of matrix products with so many rows."""
        return self.matmul * tokens / (tokens + self.half_rate) if tokens else self.matmul

    def link(self, first: int, second: int) -> LinkSpeed:
        """Return what two ranks are joined by."""
        if self.node_size and first // self.node_size != second // self.node_size:
            return LinkSpeed(self.node_bandwidth, self.node_latency)
        return LinkSpeed(self.bandwidth, self.latency)

    def links_among(self, ranks: int) -> LinkSpeed:
        """Return the slowest link of groups of so many consecutive ranks that cover all."""
        if self.node_size and self.node_size % ranks:
            return LinkSpeed(self.node_bandwidth, self.node_latency)
        return LinkSpeed(self.bandwidth, self.latency)
