"""Noise initialization: the starting noise of every block."""

from longtake.noise.base import NoiseInit, NoiseSource
from longtake.noise.free_noise import FreeNoise, free_noise_order
from longtake.noise.independent import Independent
from longtake.noise.shared_pool import SharedPool
from longtake.noise.step import DrawnStepNoise, StepNoise

__all__ = [
    "DrawnStepNoise",
    "FreeNoise",
    "Independent",
    "NoiseInit",
    "NoiseSource",
    "SharedPool",
    "StepNoise",
    "free_noise_order",
]
