"""Settings of the tests that need a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from longtake.framework.launch.deterministic import use_full_precision


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Compare with the CPU without TF32: cuDNN's convolutions use it by default, 1e-3 off."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic)
    use_full_precision()
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
