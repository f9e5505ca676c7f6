"""Every file in configs/ is a run that passes all checks that need no weights.

The real models cannot be downloaded here, so folders with the published configurations and no
weights stand in for them: what is fetched before a run is known to be possible.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from diffusers import UniPCMultistepScheduler

from longtake.framework.cli import LongtakeCLI, quiet
from longtake.models import folder as folders

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
PUBLISHED: dict[str, dict[str, Any]] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {
        "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "experts": 1
    },
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": {
        "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "experts": 1
    },
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": {
        "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "experts": 2
    },
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": {
        "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "experts": 1,
        "in_channels": 48, "out_channels": 48,
        "vae": {"z_dim": 48, "scale_factor_spatial": 16}, "index": {"expand_timesteps": True}
    },
    "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers": {
        "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "experts": 1,
        "index": {"_class_name": "SkyReelsV2DiffusionForcingPipeline"}
    },
}  # fmt: skip


def published(path: Path, name: str) -> Path:
    """Make a folder with a published model's configuration and no weights."""
    sizes = dict(PUBLISHED[name])
    other_vae, other_index = sizes.pop("vae", {}), sizes.pop("index", {})
    experts = ["transformer", "transformer_2"][: sizes.pop("experts")]
    transformer = {"patch_size": [1, 2, 2], "attention_head_dim": 128, "in_channels": 16, **sizes}
    vae = {"z_dim": 16, "scale_factor_temporal": 4, "scale_factor_spatial": 8} | other_vae
    index: dict[str, Any] = {"_class_name": "WanPipeline"} | other_index
    if len(experts) == 2:
        index["boundary_ratio"] = 0.875
    for component, config in [
        *((e, transformer) for e in experts),
        ("vae", vae),
        ("text_encoder", {}),
    ]:
        (path / component).mkdir(parents=True)
        (path / component / "config.json").write_text(json.dumps(config))
        index[component] = ["diffusers", component]
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.save_pretrained(path / "scheduler")
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (path / "model_index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_shipped_config_passes_preflight(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        folders, "_download", lambda name, _patterns: published(tmp_path / "model", name)
    )
    # The configs are for large GPUs: the check of what the cache holds must not fail for this host.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=141 * 10**9))
    monkeypatch.setattr(LongtakeCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr("sys.argv", ["longtake"])
    quiet()
    arguments = ["predict", "--config", str(config), "--trainer.accelerator", "cpu"]
    cli = LongtakeCLI([*arguments, "--output", str(tmp_path / "out")])
    engine = cli.trainer.prepare(cli.model, cli.datamodule)
    assert engine.plan.spec.compression.video_frames(2) == 5
    assert len(cli.datamodule.requests()) == 1
