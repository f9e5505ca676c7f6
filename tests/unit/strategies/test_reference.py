"""Equal to the algorithm: recorded cases of DualParal's block-wise denoising.

Any other case folder (or a folder of them) is taken from the environment variable
LONGTAKE_REFERENCE.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from longtake.caches import NextBlockKV
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler
from longtake.models.wan import WanBackbone
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, Denoising, Layout, SingleDevice
from longtake.task import Video

CASES = Path(__file__).parents[2] / "cases"
TOLERANCE = 1e-4  # max abs, fp32: another order of summation alone gives about 1e-5


def case_folders() -> list[Path]:
    root = Path(os.environ.get("LONGTAKE_REFERENCE", CASES))
    found = [root] if (root / "case.json").is_file() else sorted(root.glob("dualparal-*"))
    assert found, f"no dualparal case in {root}"
    return found


def load_backbone(folder: Path, config: dict[str, int]) -> WanBackbone:
    transformer = WanTransformer3DModel.from_config(config)
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    transformer.requires_grad_(False).eval()
    spec = BackboneSpec(
        name=folder.name,
        channels=transformer.config.in_channels,
        patch=tuple(transformer.config.patch_size),
        heads=transformer.config.num_attention_heads,
        head_dim=transformer.config.attention_head_dim,
        layers=transformer.config.num_layers,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )
    return WanBackbone(spec, [transformer], range(spec.layers))


@pytest.mark.parametrize("folder", case_folders(), ids=lambda folder: folder.name)
def test_fifo_queue_with_next_block_kv_gives_the_recorded_latents(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    scheduler = FifoQueue(case["block_frames"], case["context_frames"])
    frames = case["latents_shape"][2]
    assert [len(block) for block in scheduler.blocks(frames)] == case["blocks"]
    sampler_class = getattr(diffusers, case["scheduler_class"])
    sampler = DiffusersSampler(sampler_class.from_config(case["scheduler_config"]), case["steps"])
    torch.testing.assert_close(torch.tensor(sampler.timesteps).float(), inputs["timesteps"].float())
    backbone = load_backbone(folder, case["model_config"])
    guidance = ClassifierFreeGuidance(GuidanceSettings(scales=(case["guidance_scale"],)))
    prompts = [inputs["prompt_embeds"], inputs["negative_prompt_embeds"]]
    with torch.no_grad():
        text = backbone.condition_text({"states": torch.cat(prompts[: len(guidance.branches)])})
        work = Denoising(
            backbone=backbone,
            tasks=scheduler.tasks(Video(frames, case["steps"])),
            noise=iter(inputs[f"noise.{block}"] for block in range(len(case["blocks"]))),
            cache=NextBlockKV(),
            sampler=sampler,
            guidance=guidance,
            text=lambda _frames, _branches: text,
            height=case["latents_shape"][3],
            width=case["latents_shape"][4],
            device=torch.device("cpu"),
        )
        layout = Layout.serial(backbone.spec.layers, len(guidance.branches))
        events = SingleDevice().run(work, layout, 0)
        blocks = [event.latents for event in events if isinstance(event, BlockDone)]
    expected = load_file(folder / "expected.safetensors")["latents"]
    torch.testing.assert_close(torch.cat(blocks, dim=2), expected, rtol=0, atol=TOLERANCE)
