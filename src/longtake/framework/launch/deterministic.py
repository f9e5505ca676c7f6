"""Deterministic kernels: what PyTorch has to be told for a GPU to repeat itself to the bit."""

from __future__ import annotations

import torch


def use_full_precision() -> None:
    """Have GPUs multiply and convolve float32 as float32, with kernels that repeat themselves.

    Lightning's ``deterministic`` chooses algorithms without atomics and a fixed workspace for
    cuBLAS; this is what it leaves as it is. TF32 rounds operands to 10 bits, and which of cuDNN's
    kernels use it depends on the shapes and the device. Nothing of it concerns the CPU. It holds
    for the rest of the process.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
