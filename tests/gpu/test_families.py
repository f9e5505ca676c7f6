"""Every family and method on a GPU: latents and frames are the CPU's, up to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longtake.testing.device_runs import RUNS, videos

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_makes_the_video_of_the_cpu(tmp_path: Path, name: str) -> None:
    (latents, frames), (found, its_frames) = videos(name, tmp_path, "cpu", "cuda")
    # fp32 kernels of the two devices sum in other orders; guidance amplifies that.
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-3)
    assert (its_frames.int() - frames.int()).abs().max() <= 2, "levels of 256"
