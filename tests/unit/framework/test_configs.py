"""Every file in configs/ is a run that passes all checks that need no weights.

The real models cannot be downloaded here, so folders with the published configurations and no
weights stand in for them: what is fetched before a run is known to be possible.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import psutil
import pytest
import torch
import yaml
from diffusers import (
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import save_file

from longtake.framework.callbacks import ReportWriter
from longtake.framework.cli import LongtakeCLI
from longtake.framework.console.models_report import cards
from longtake.framework.console.quiet import quiet
from longtake.framework.engine.applied import model_of, settings_of
from longtake.framework.engine.events import RequestStarted
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.preflight import check_request
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.settings import settled
from longtake.framework.engine.timings import Timings
from longtake.framework.engine.workloads import Workloads
from longtake.models import DiffusersScheduler, Lora, Placement, family_of, open_folder
from longtake.models.loading import folder as folders
from longtake.models.loading.hub import HubSnapshot
from longtake.plan.cost.profiles import profile
from longtake.schedulers import FullSequence

CPU = torch.device("cpu")

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
_WAN = {"patch_size": [1, 2, 2], "attention_head_dim": 128, "in_channels": 16}
_SMALL = _WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_LARGE = _WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
_IMAGE = _LARGE | {"in_channels": 36, "out_channels": 16}
_WAN_VAE = {"z_dim": 16, "scale_factor_temporal": 4, "scale_factor_spatial": 8}
_UNIPC = UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)
_UNSHIFTED = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
_COG = CogVideoXDDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)
_DYNAMIC = FlowMatchEulerDiscreteScheduler(
    use_dynamic_shifting=True,
    base_shift=0.95,
    max_shift=2.05,
    base_image_seq_len=1024,
    max_image_seq_len=4096,
    shift_terminal=0.1,
)

_UNSHIFTED_EULER = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)
_LTX_13B = {"num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096}
_LTX_095 = {
    "block_out_channels": [128, 256, 512, 1024, 2048],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
    "decoder_block_out_channels": [256, 512, 1024],
    "layers_per_block": [4, 6, 6, 2, 2],
    "decoder_layers_per_block": [5, 5, 5, 5],
    "spatio_temporal_scaling": [True, True, True, True],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "decoder_inject_noise": [False, False, False, False],
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "upsample_residual": [True, True, True],
    "upsample_factor": [2, 2, 2],
    "timestep_conditioning": True,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
_ANCESTRAL = EulerAncestralDiscreteScheduler(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)
_WAVELETS = {
    "norm_type": "layernorm", "t_interpolation": "trilinear", "connect_res_layer_num": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What a published folder says of itself; what is left out are the classes' own defaults."""

    pipeline: str = "WanPipeline"
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=lambda: _WAN_VAE)
    vae_class: str = "AutoencoderKLWan"
    scheduler: Any = _UNIPC
    index: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)


def lora_of(model: dict[str, Any]) -> list[Lora | str] | None:
    """Return the LoRAs of a config."""
    given = model.get("lora")
    each = given if isinstance(given, list) else [] if given is None else [given]
    return [Lora(**one) if isinstance(one, dict) else one for one in each] or None


def _kandinsky5(
    pipeline: str = "Kandinsky5T2VPipeline", shift: float = 5.0, **changes: Any
) -> Published:
    lite = {
        "in_visual_dim": 16, "out_visual_dim": 16, "model_dim": 1792, "ff_dim": 7168,
        "num_text_blocks": 2, "num_visual_blocks": 32, "visual_cond": True,
    }  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return Published(pipeline, lite | changes, {}, "AutoencoderKLHunyuanVideo", scheduler)


FORCING = "SkyReelsV2DiffusionForcingPipeline"
TWO = {"boundary_ratio": 0.875}
PUBLISHED = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Published(transformer=_SMALL),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Published(transformer=_LARGE),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": Published(
        transformer=_LARGE, index=TWO, parts={"transformer_2": _LARGE}
    ),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Published(
        transformer=_SMALL
        | {"num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48},
        vae={"z_dim": 48, "scale_factor_temporal": 4, "scale_factor_spatial": 16},
        index={"expand_timesteps": True},
    ),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": Published(
        "WanImageToVideoPipeline",
        _IMAGE | {"image_dim": 1280, "added_kv_proj_dim": 5120},
        parts={"image_encoder": {}},
    ),
    "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers": Published(
        "WanImageToVideoPipeline",
        _IMAGE | {"image_dim": 1280, "added_kv_proj_dim": 5120, "pos_embed_seq_len": 514},
        parts={"image_encoder": {"image_size": 224, "patch_size": 14}},
    ),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": Published(
        "WanImageToVideoPipeline", _IMAGE, index=TWO, parts={"transformer_2": _IMAGE}
    ),
    "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers": Published(FORCING, _SMALL, scheduler=_UNSHIFTED),
    "Skywork/SkyReels-V2-DF-14B-540P-Diffusers": Published(FORCING, _LARGE, scheduler=_UNSHIFTED),
    "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers": Published(
        "SkyReelsV2Pipeline", _LARGE, scheduler=_UNSHIFTED
    ),
    "Skywork/SkyReels-V2-T2V-14B-720P-Diffusers": Published(
        "SkyReelsV2Pipeline", _LARGE, scheduler=_UNSHIFTED
    ),
    "Skywork/SkyReels-V2-I2V-14B-720P-Diffusers": Published(
        "SkyReelsV2ImageToVideoPipeline",
        _IMAGE | {"image_dim": 1280, "added_kv_proj_dim": 5120},
        scheduler=_UNSHIFTED,
        parts={"image_encoder": {}},
    ),
    "Skywork/SkyReels-V2-I2V-14B-540P-Diffusers": Published(
        "SkyReelsV2ImageToVideoPipeline",
        _IMAGE | {"image_dim": 1280, "added_kv_proj_dim": 5120},
        scheduler=_UNSHIFTED,
        parts={"image_encoder": {}},
    ),
    "THUDM/CogVideoX-2b": Published(
        "CogVideoXPipeline", {}, {}, "AutoencoderKLCogVideoX", _COG
    ),
    "THUDM/CogVideoX-5b": Published(
        "CogVideoXPipeline",
        {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True},
        {},
        "AutoencoderKLCogVideoX",
        _COG,
    ),
    "THUDM/CogVideoX1.5-5B": Published(
        "CogVideoXPipeline",
        {
            "num_layers": 42, "num_attention_heads": 48, "patch_size_t": 2, "patch_bias": False,
            "sample_frames": 81, "sample_height": 300, "sample_width": 300,
            "use_rotary_positional_embeddings": True,
        },
        {},
        "AutoencoderKLCogVideoX",
        _COG,
    ),
    "THUDM/CogVideoX1.5-5B-I2V": Published(
        "CogVideoXImageToVideoPipeline",
        {
            "num_layers": 42, "num_attention_heads": 48, "patch_size_t": 2, "patch_bias": False,
            "sample_frames": 81, "sample_height": 300, "sample_width": 300, "in_channels": 32,
            "use_rotary_positional_embeddings": True, "ofs_embed_dim": 512,
        },
        {},
        "AutoencoderKLCogVideoX",
        _COG,
    ),
    "THUDM/CogVideoX-5b-I2V": Published(
        "CogVideoXImageToVideoPipeline",
        {
            "num_layers": 42, "num_attention_heads": 48, "in_channels": 32,
            "use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True,
        },
        {},
        "AutoencoderKLCogVideoX",
        _COG,
    ),
    "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers": _kandinsky5(),
    "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-10s-Diffusers": _kandinsky5(
        shift=10.0,
        attention_type="nabla",
        attention_P=0.9,
        attention_wT=11,
        attention_wH=3,
        attention_wW=3,
    ),
    "kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers": _kandinsky5(
        "Kandinsky5I2VPipeline", shift=10.0
    ),
    "hunyuanvideo-community/HunyuanVideo": Published(
        "HunyuanVideoPipeline",
        {},
        {},
        "AutoencoderKLHunyuanVideo",
        FlowMatchEulerDiscreteScheduler(shift=7.0),
    ),
    "hunyuanvideo-community/HunyuanVideo-I2V": Published(
        "HunyuanVideoImageToVideoPipeline",
        {"image_condition_type": "token_replace"},
        {},
        "AutoencoderKLHunyuanVideo",
        FlowMatchEulerDiscreteScheduler(shift=7.0),
    ),
    "hunyuanvideo-community/HunyuanVideo-I2V-33ch": Published(
        "HunyuanVideoImageToVideoPipeline",
        {
            "image_condition_type": "latent_concat", "in_channels": 33, "out_channels": 16,
            "guidance_embeds": False,
        },
        {},
        "AutoencoderKLHunyuanVideo",
        FlowMatchEulerDiscreteScheduler(shift=7.0),
    ),
    "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v": Published(
        "HunyuanVideo15Pipeline",
        {},
        {},
        "AutoencoderKLHunyuanVideo15",
        FlowMatchEulerDiscreteScheduler(shift=5.0),
    ),
    "hunyuanvideo-community/HunyuanVideo-1.5-480p_i2v": Published(
        "HunyuanVideo15ImageToVideoPipeline",
        {},
        {},
        "AutoencoderKLHunyuanVideo15",
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        parts={"image_encoder": {"hidden_size": 1152, "image_size": 378, "patch_size": 14}},
    ),
    "Lightricks/LTX-Video": Published(
        "LTXPipeline", {}, {}, "AutoencoderKLLTXVideo", _DYNAMIC
    ),
    "Lightricks/LTX-Video-0.9.5": Published(
        "LTXConditionPipeline", {}, _LTX_095, "AutoencoderKLLTXVideo", _UNSHIFTED_EULER
    ),
    "Lightricks/LTX-Video-0.9.7-dev": Published(
        "LTXConditionPipeline", _LTX_13B, _LTX_095, "AutoencoderKLLTXVideo", _UNSHIFTED_EULER
    ),
    "Lightricks/LTX-Video-0.9.7-distilled": Published(
        "LTXConditionPipeline", _LTX_13B, _LTX_095, "AutoencoderKLLTXVideo", _UNSHIFTED_EULER
    ),
    "Lightricks/LTX-Video-0.9.8-13B-distilled": Published(
        "LTXConditionPipeline", _LTX_13B, _LTX_095, "AutoencoderKLLTXVideo", _UNSHIFTED_EULER
    ),
    "genmo/mochi-1-preview": Published(
        "MochiPipeline",
        {},
        {},
        "AutoencoderKLMochi",
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    ),
    "./models/open-sora-plan-1.3": Published(
        "OpenSoraPlanPipeline",
        {
            "num_layers": 32, "num_attention_heads": 24, "attention_head_dim": 96,
            "in_channels": 8, "out_channels": 8, "caption_channels": 4096,
            "sparse1d": True, "sparse_n": 4,
        },
        _WAVELETS,
        "WFVAEModel",
        _ANCESTRAL,
    ),
    "./models/open-sora-plan-1.3-i2v": Published(
        "OpenSoraPlanImageToVideoPipeline",
        {
            "_class_name": "OpenSoraInpaint_v1_3", "vae_scale_factor_t": 4,
            "num_layers": 32, "num_attention_heads": 24, "attention_head_dim": 96,
            "in_channels": 8, "out_channels": 8, "caption_channels": 4096,
            "sparse1d": True, "sparse_n": 4,
        },
        _WAVELETS,
        "WFVAEModel",
        _ANCESTRAL,
    ),
}  # fmt: skip


def published(path: Path, name: str) -> Path:
    """Make a folder with a published model's configuration and no weights."""
    model = PUBLISHED[name]
    index = {"_class_name": model.pipeline, **model.index}
    parts = {"transformer": model.transformer, "vae": model.vae, "text_encoder": {}, **model.parts}
    for component, config in parts.items():
        (path / component).mkdir(parents=True)
        (path / component / "config.json").write_text(json.dumps(config))
        index[component] = ["diffusers", model.vae_class if component == "vae" else component]
    model.scheduler.save_pretrained(path / "scheduler")
    index["scheduler"] = ["diffusers", type(model.scheduler).__name__]
    if model.pipeline.startswith("HunyuanVideo15"):
        ClassifierFreeGuidance(guidance_scale=6.0).save_pretrained(path / "guider")
        index["guider"] = ["diffusers", "ClassifierFreeGuidance"]
    (path / "model_index.json").write_text(json.dumps(index))
    return path


FEW_STEPS = {
    "block-cascading-1.3b": (1000, 937.5, 833.333, 625),
    "longlive-1.3b": (1000, 937.5, 833.333, 625),
    "rolling-forcing": (1000, 952.381, 882.353, 769.231, 555.556),
    "self-forcing-1.3b": (1000, 937.5, 833.333, 625),
    "wan2.1-fewstep": (1000, 937.5, 833.333, 625),
    "wan2.2-lightning": (1000, 937.5, 833.333, 625),
}
"""What the published code of each few-step model tells it, by the config that is for it."""


def stand_in(path: Path, model: str) -> None:
    """Write a LoRA of one module, or a transformer's weights: its headers, and no disk for numbers.

    Args:
        path: The file that a config names.
        model: Whose it is for.
    """
    config = PUBLISHED[model].transformer
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parts[-2] != "models":
        width = config["num_attention_heads"] * config["attention_head_dim"]
        query = "diffusion_model.blocks.0.self_attn.q"
        down, up = torch.zeros(1, width), torch.zeros(width, 1)
        save_file({f"{query}.lora_down.weight": down, f"{query}.lora_up.weight": up}, path)
        return
    with torch.device("meta"):
        state = diffusers.WanTransformer3DModel.from_config(config).state_dict()
    headers, end = {}, 0
    for key, tensor in state.items():
        start, end = end, end + 2 * tensor.numel()
        headers[f"model.{key}"] = {
            "dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(headers).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # a file with a hole


def prepared(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> LongtakeCLI:
    """Return the command line after all checks, on published configurations."""
    given, picture = yaml.safe_load(config.read_text())["model"], tmp_path / "first.png"
    model = given["pipeline"]
    options = GenerationConfig(model, lora=lora_of(given), weights=given.get("weights"))
    for file in (options.weights, *(lora.path for lora in options.loras)):
        if file is not None:
            monkeypatch.chdir(tmp_path)
            stand_in(tmp_path / file, model)
    if model.startswith("./"):  # not there: by a name that is looked for on the hub
        more = (*more, "--model.pipeline", model.removeprefix("./"))
    if "I2V" in model.upper():
        Image.new("RGB", (64, 48)).save(picture)
        more = (*more, "--data.start", str(picture))
    if "FLF2V" in model:
        Image.new("RGB", (1280, 720)).save(picture)
        more = (*more, "--data.start", str(picture), "--data.end", str(picture))
    if model != "demo":
        folder = published(tmp_path / "model", model)
        monkeypatch.setattr(folders, "find_settings", lambda _name, _revision: folder)
        snapshot = HubSnapshot(name=model, commit="0" * 40, path=folder, sizes={})
        monkeypatch.setattr(folders, "find_snapshot", lambda _name, _path: snapshot)
    # The configs are for large GPUs: the check of what the cache holds must not fail for this host.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=141 * 10**9))
    monkeypatch.setattr(LongtakeCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr("sys.argv", ["longtake"])
    quiet()
    arguments = ["predict", "--config", str(config), "--trainer.accelerator", "cpu"]
    return LongtakeCLI([*arguments, "--output", str(tmp_path / "out"), *more])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_shipped_config_passes_preflight(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = prepared(config, tmp_path, monkeypatch)
    engine = cli.trainer.prepare(cli.model, cli.datamodule)
    (request,) = cli.datamodule.requests()
    latent_frames = engine.workloads.latent_frames(request)
    assert latent_frames is not None
    spec = engine.model.spec
    assert latent_frames > spec.native_frames or latent_frames == spec.learned_frames
    if engine.model.generation_config.pipeline == "demo":
        return
    # What it says beside its prompt and length is what the model would be run with anyway.
    assert request.fps == engine.model.defaults.fps
    assert (request.height, request.width) == (
        engine.model.defaults.height,
        engine.model.defaults.width,
    )
    told = FEW_STEPS.get(config.stem)
    assert (told is not None) == (engine.model.generation_config.timesteps is not None)
    if told is not None:  # a distilled model: at its own noise levels, without guidance
        assert engine.workloads.sampler(request).timesteps == pytest.approx(told, abs=1e-3)
        assert len(engine.model.guidance.branches) == 1
        return
    own = replace(
        engine.model.generation_config, steps=None, guidance_scale=None, guidance_scale_2=None
    )
    settings = settled(own, engine.model.defaults, engine.model.spec.experts)
    assert settings.steps == engine.model.settings.steps
    assert settings.guidance_scale == engine.model.settings.guidance_scale
    assert settings.guidance_scale_2 == engine.model.settings.guidance_scale_2
    if engine.model.defaults.flow_shift is not None:
        assert engine.model.settings.flow_shift == engine.model.defaults.flow_shift


@pytest.mark.parametrize(
    ("model", "timesteps", "shift", "told"),
    [
        # As published: the list, the shift of the training, and what the model is told.
        ("CausVid", [1000, 757, 522], 1.0, [1000, 757, 522]),
        ("FastWan 1.3B", [1000, 757, 522], 1.0, [1000, 757, 522]),
        ("Self-Forcing, LongLive", [1000, 750, 500, 250], 5.0, [1000, 937.5, 833.333, 625]),
        (
            "Rolling Forcing",
            [1000, 800, 600, 400, 200],
            5.0,
            [1000, 952.381, 882.353, 769.231, 555.556],
        ),
    ],
)
def test_noise_levels_are_the_published_ones(
    model: str, timesteps: list[float], shift: float, told: list[float], tmp_path: Path
) -> None:
    folder = published(tmp_path / "model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    euler = DiffusersScheduler(
        scheduler="FlowMatchEulerDiscreteScheduler", options={"stochastic_sampling": True}
    )
    config = GenerationConfig(
        str(folder), timesteps=timesteps, flow_shift=shift, sampler=euler, guidance_scale=1.0
    )
    place = Placement(CPU, config.torch_dtype)
    workloads = Workloads(ResolvedModel(config, place), profile("cpu"))
    request = Request(prompts=(PromptAt(text="red"),), num_frames=81, height=480, width=832)
    assert workloads.sampler(request).timesteps == pytest.approx(told, abs=1e-3)
    shown = settings_of(workloads, request)
    assert shown["steps"] == len(told)
    assert shown["timesteps"] == ",".join(f"{level:g}" for level in told)
    assert shown["sampler"] == "FlowMatchEulerDiscreteScheduler(stochastic_sampling=true)"


def test_every_registered_model_has_a_config() -> None:
    named = {yaml.safe_load(config.read_text())["model"]["pipeline"] for config in CONFIGS}
    examples = {example for card in cards() for example in card.examples if "/" in example}
    assert examples <= named
    assert "./models/open-sora-plan-1.3" in named  # its folder is made here
    assert {PUBLISHED[name].pipeline for name in named - {"demo"}} == {
        card.pipeline for card in cards() if card.model
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_model_s_own(name: str, tmp_path: Path) -> None:
    """A clip of the length that it was trained on, of sizes that it can make."""
    path = published(tmp_path, name)
    hub = HubSnapshot(name=name, commit="0" * 40, path=path, sizes={}) if name[0] != "." else None
    folder = replace(open_folder(str(path)), hub=hub)
    family = family_of(folder)
    spec, own, card = family.spec(folder), family.defaults(folder), family.card(folder)
    assert own.frames == spec.compression.video_frames(spec.native_frames)
    assert card.native_frames == spec.native_frames
    assert card.timestep == spec.timestep
    assert card.licence
    assert own == card.defaults
    if "/" in name and not name.startswith("."):
        assert name in card.examples
    request = Request(
        prompts=(PromptAt(text="red"),),
        num_frames=own.frames,
        height=own.height,
        width=own.width,
        fps=own.fps,
    )
    check_request(request, spec, FullSequence())


CALLED = [
    (diffusers.WanPipeline, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    (diffusers.WanImageToVideoPipeline, "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    (diffusers.CogVideoXPipeline, "THUDM/CogVideoX-5b"),
    (diffusers.HunyuanVideoPipeline, "hunyuanvideo-community/HunyuanVideo"),
    (diffusers.HunyuanVideo15Pipeline, "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v"),
    (diffusers.Kandinsky5T2VPipeline, "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers"),
    (diffusers.Kandinsky5I2VPipeline, "kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers"),
    (diffusers.LTXPipeline, "Lightricks/LTX-Video"),
    (diffusers.LTXConditionPipeline, "Lightricks/LTX-Video-0.9.5"),
    (diffusers.MochiPipeline, "genmo/mochi-1-preview"),
    (diffusers.SkyReelsV2Pipeline, "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers"),
    (
        diffusers.SkyReelsV2DiffusionForcingPipeline,
        "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
    ),
]


@pytest.mark.parametrize(("pipeline", "name"), CALLED)
def test_defaults_are_those_of_the_pipelines_of_diffusers(
    pipeline: Any, name: str, tmp_path: Path
) -> None:
    """Where a pipeline has one; Mochi's 19 frames are for small machines, it makes clips of 163."""
    folder = open_folder(str(published(tmp_path, name)))
    own = family_of(folder).defaults(folder)
    called = {
        key: parameter.default
        for key, parameter in inspect.signature(pipeline.__call__).parameters.items()
    }
    compared = {
        "num_inference_steps": own.steps,
        "guidance_scale": own.guidance_scale,
        "height": own.height,
        "width": own.width,
        "num_frames": own.frames,
        "frame_rate": own.fps,
        "fps": own.fps,
    }
    if pipeline is diffusers.MochiPipeline:
        assert compared.pop("num_frames") == 163
    found = {key: called[key] for key in compared if called.get(key) is not None}
    assert found == {key: compared[key] for key in found}
    assert "num_inference_steps" in found


def resolved(generation_config: GenerationConfig) -> ResolvedModel:
    return ResolvedModel(generation_config, Placement(CPU, torch.float32))


def test_a_distilled_folder_says_its_scale(tmp_path: Path) -> None:
    folder = published(tmp_path / "1.5", "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v")
    ClassifierFreeGuidance(guidance_scale=1.0).save_pretrained(folder / "guider")
    (folder / "transformer" / "config.json").write_text(json.dumps({"target_size": 960}))
    model = resolved(GenerationConfig(pipeline=str(folder)))
    assert len(model.guidance.branches) == 1, "a second branch is computed for nothing"
    assert (model.defaults.height, model.defaults.width) == (720, 1280)
    given = GenerationConfig(pipeline=str(folder), guidance_scale=5.0)
    assert len(resolved(given).guidance.branches) == 2


def test_a_shift_in_the_folder_goes_before_that_of_the_family(tmp_path: Path) -> None:
    name = "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers"
    folder = published(tmp_path / "model", name)
    prompts = (PromptAt(text="red"),)
    request = Request(prompts=prompts, num_frames=97, height=544, width=960)

    def shift(generation_config: GenerationConfig) -> float | None:
        workloads = Workloads(resolved(generation_config), profile("cpu"))
        expected = UniPCMultistepScheduler.from_config(
            _UNIPC.config, flow_shift=workloads.flow_shift(request)
        )
        expected.set_timesteps(50)
        assert workloads.sampler(request).timesteps == tuple(map(float, expected.timesteps))
        return workloads.flow_shift(request)

    assert shift(GenerationConfig(pipeline=str(folder))) == 8.0
    assert shift(GenerationConfig(pipeline=str(folder), flow_shift=3.0)) == 3.0
    UniPCMultistepScheduler.from_config(_UNIPC.config, flow_shift=5.0).save_pretrained(
        folder / "scheduler"
    )
    assert shift(GenerationConfig(pipeline=str(folder))) == 5.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (4.0, 3.0)),
        ({"guidance_scale": 6.0}, (6.0, 6.0)),
        ({"guidance_scale_2": 2.0}, (4.0, 2.0)),
    ],
)
def test_whoever_gives_one_scale_means_both(
    given: dict[str, float], expected: tuple[float, float], tmp_path: Path
) -> None:
    folder = published(tmp_path, "Wan-AI/Wan2.2-T2V-A14B-Diffusers")
    generation_config = GenerationConfig(pipeline=str(folder), **given)  # type: ignore[arg-type]
    model = resolved(generation_config)
    assert model.guidance.settings.scales == expected
    assert model.settings.steps == 40


def test_what_is_left_out_is_shown_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``config.yaml``, so that a rerun asks for the same; in plans; in ``report.json``."""
    config = tmp_path / "short.yaml"
    config.write_text(
        "model: {pipeline: Wan-AI/Wan2.2-T2V-A14B-Diffusers}\ndata: {prompts: [a fox]}\n"
    )
    cli = prepared(config, tmp_path, monkeypatch)
    engine = cli.trainer.prepare(cli.model, cli.datamodule)
    (request,) = cli.datamodule.requests()
    expected = {
        "steps": 40,
        "guidance_scale": 4.0,
        "guidance_scale_2": 3.0,
        "flow_shift": 3.0,
        "num_frames": 81,
        "height": 720,
        "width": 1280,
        "fps": 16,
    }
    dumped = yaml.safe_load(cli.run_start().config_text(engine.model))
    assert {name: (dumped["model"] | dumped["data"])[name] for name in expected} == expected
    shown = settings_of(engine.workloads, request)
    assert shown == expected | {"sampler": "UniPCMultistepScheduler"}
    assert model_of(engine.model) == {
        "model": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "pipeline": "WanPipeline",
        "revision": "0" * 40,
        "variant": None,
        "weights": None,
        "weights_2": None,
        "licence": "apache-2.0",
    }
    report = ReportWriter(RunFolder(tmp_path), Timings(), "none", engine.workloads)
    module = SimpleNamespace(device=CPU)
    report.on_request_start(
        cli.trainer,
        module,  # type: ignore[arg-type]
        RequestStarted(request=request, blocks=3, steps=40, tasks=120, video_frames=81),
    )
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["licence"] == "apache-2.0"
    made = written["requests"][0]
    for name in ("guidance_scale", "guidance_scale_2", "flow_shift", "sampler", "steps", "fps"):
        assert made[name] == shown[name]


def test_what_is_given_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "short.yaml"
    config.write_text(
        "model: {pipeline: genmo/mochi-1-preview, steps: 9}\n"
        "data: {prompts: [a fox], num_frames: null, fps: 12, height: 96}\n"
    )
    cli = prepared(config, tmp_path, monkeypatch)
    engine = cli.trainer.prepare(cli.model, cli.datamodule)
    (request,) = cli.datamodule.requests()
    assert (request.num_frames, request.height, request.width) == (None, 96, 848)
    assert (request.fps, engine.model.settings.steps, engine.model.settings.guidance_scale) == (
        12,
        9,
        4.5,
    )
    dumped = yaml.safe_load(cli.run_start().config_text(engine.model))
    assert dumped["data"]["num_frames"] is None
    assert dumped["model"]["steps"] == 9
