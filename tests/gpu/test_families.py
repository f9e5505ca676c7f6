"""Every family on a GPU: latents and frames are the CPU's, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import ModelFolder
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.cogvideox import tiny_cogvideox_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder
from longtake.testing.tiny.ltx import tiny_ltx_condition_folder, tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FOLDERS: dict[str, Callable[[Path], ModelFolder]] = {
    "Wan": tiny_wan_folder,
    "CogVideoX": tiny_cogvideox_folder,
    "HunyuanVideo": tiny_hunyuan_folder,
    "HunyuanVideo 1.5": tiny_hunyuan15_folder,
    "LTX-Video": tiny_ltx_folder,
    "LTX-Video 0.9.5": tiny_ltx_condition_folder,
    "Mochi": tiny_mochi_folder,
    "Open-Sora-Plan": tiny_open_sora_plan_folder,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_gpu_makes_the_video_of_the_cpu(tmp_path: Path, name: str) -> None:
    folder = FOLDERS[name](tmp_path / "tiny")
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FullSequence(), steps=2, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="bird"),), num_frames=9, height=64, width=64)
    latents, frames = [], []
    for device in ("cpu", "cuda"):
        events = list(Engine(generation_config, SingleDevice(), device=device).generate(request))
        latents += [one.latents.cpu() for one in events if isinstance(one, BlockDone)]
        frames += [torch.cat([one.frames for one in events if isinstance(one, FramesDecoded)])]
    # fp32 kernels of the two devices sum in other orders; guidance amplifies that.
    torch.testing.assert_close(latents[1], latents[0], rtol=0, atol=1e-3)
    assert (frames[1].int() - frames[0].int()).abs().max() <= 2, "levels of 256"
