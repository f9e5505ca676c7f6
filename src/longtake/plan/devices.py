"""Devices and links: their speed, and how long a model's parts take on them."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    matmul: float
    convolution: float
    bandwidth: float
    latency: float
    launch: float
    memory: float
    hiding: float = 1.0
