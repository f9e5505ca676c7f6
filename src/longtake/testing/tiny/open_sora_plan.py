"""Tiny Open-Sora-Plan: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.open_sora_plan import (
    OpenSoraPlanBackbone,
    OpenSoraPlanConfig,
    OpenSoraPlanTransformer,
    convert,
)
from longtake.models.open_sora_plan.wavelet_vae import WaveletVae, WaveletVaeConfig
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    t5_encoder,
    word_tokenizer,
)

HEADS = 3
"""Attention heads: an odd number, so that two ranks divide them unevenly."""

_WORDS = ["<pad>", "</s>", "<unk>", "red", "blue", "bird", "sea", "moves", "slow"]


def tiny_open_sora_plan_folder(
    path: Path, *, shard_size: str = "5GB", seed: int = 0, **changes: Any
) -> ModelFolder:
    """Save the parts as they are published, with random weights, and make a pipeline folder.

    Args:
        path: Where to.
        shard_size: Largest weight file of the transformer.
        seed: Of the weights.
        changes: To the transformer's configuration; ``vae_scale_factor_t=4`` makes it one of image
            to video.
    """
    parts = save_tiny_open_sora_plan_parts(
        path / "parts", shard_size=shard_size, seed=seed, **changes
    )
    return convert(**parts, target=path / "pipeline")


def save_tiny_open_sora_plan_parts(
    path: Path, *, shard_size: str = "5GB", seed: int = 0, **changes: Any
) -> dict[str, Path]:
    """Save the parts as they are published, each in a folder; return these.

    Args:
        path: Where to.
        shard_size: Largest weight file of the transformer.
        seed: Of the weights.
        changes: As for ``tiny_open_sora_plan_folder``.
    """
    transformer = tiny_open_sora_plan_transformer(seed, **changes)
    parts = {name: path / name for name in ("transformer", "text_encoder", "vae")}
    parts["transformer"].mkdir(parents=True)
    save_torch_state_dict(
        transformer.state_dict(),
        parts["transformer"],
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    image = transformer.config.vae_scale_factor_t
    name = "OpenSoraInpaint_v1_3" if image else "OpenSoraT2V_v1_3"
    config = {"_class_name": name, **asdict(transformer.config)}
    (parts["transformer"] / "config.json").write_text(json.dumps(config))
    encoder = t5_encoder(len(_WORDS), TEXT_DIM, seed, "MT5")
    encoder.save_pretrained(parts["text_encoder"])
    word_tokenizer(_WORDS, closed=True).save_pretrained(parts["text_encoder"])
    save_tiny_wavelet_vae(parts["vae"], seed)
    return parts


def tiny_wavelet_vae(seed: int = 0) -> Any:
    """Return a VAE of random weights: 8 times smaller, 4 times fewer frames."""
    config = WaveletVaeConfig(
        latent_dim=CHANNELS,
        base_channels=8,
        encoder_energy_flow_hidden_size=4,
        decoder_energy_flow_hidden_size=8,
        connect_res_layer_num=2,
        norm_type="layernorm",
        t_interpolation="trilinear",
        scale=(0.5, 1.2, 0.9, 0.7),
        shift=(-0.3, 0.1, 0.4, 0.0),
    )
    return randomize(WaveletVae(config), seed)


def save_tiny_wavelet_vae(path: Path, seed: int = 0) -> None:
    """Save a VAE as it is published: a pickle of several state dicts, taps of wavelets included."""
    vae = tiny_wavelet_vae(seed)
    taps = {"encoder.wavelet_transform_l1.aa": torch.full((1, 1, 2, 2), 0.5)}
    averaged = {f"module.{key}": tensor for key, tensor in (vae.state_dict() | taps).items()}
    last = {key: tensor + 1 for key, tensor in vae.state_dict().items()}
    path.mkdir(parents=True)
    checkpoint = {"ema_state_dict": averaged, "state_dict": {"gen_model": last}, "step": 7}
    torch.save(checkpoint, path / "merged.ckpt")
    config = {"_class_name": "WFVAEModel", **asdict(vae.config)}
    (path / "config.json").write_text(json.dumps(config))


def tiny_open_sora_plan_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a transformer of random weights: two full layers, then one of each sparse kind."""
    config = OpenSoraPlanConfig(
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        caption_channels=TEXT_DIM,
        sparse1d=True,
        sparse_n=4,
    )
    return randomize(OpenSoraPlanTransformer(replace(config, **changes)), seed)


def tiny_open_sora_plan_spec(*, image: bool = False) -> BackboneSpec:
    """Return the spec of ``tiny_open_sora_plan_backbone``, of image to video with ``image``."""
    return BackboneSpec(
        name="tiny Open-Sora-Plan",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=HEADS,
        head_dim=12,
        layers=LAYERS,
        native_frames=24,
        compression=Compression(temporal=4, spatial=8),
        sparse="groups",
        start="channels" if image else "replaced",
        native=("start", "continue") if image else (),
    )


def tiny_open_sora_plan_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0, **changes: Any
) -> OpenSoraPlanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_open_sora_plan_transformer(seed, **changes)
    drop_layers(transformer.transformer_blocks, layers)
    image = bool(transformer.config.vae_scale_factor_t)
    return OpenSoraPlanBackbone(tiny_open_sora_plan_spec(image=image), transformer, layers)


def published_forward(
    transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates
) -> Tensor:
    """Run the published forward, which recorded cases hold to, on videos without a mask.

    Args:
        transformer: The model.
        latents: ``(B, C, F, H, W)``; of image-to-video weights with what is given behind them.
        timestep: Of all of them.
        prompts: One row each.
    """
    out: Tensor = transformer(
        latents,
        torch.full((len(latents),), timestep),
        prompts["states"][:, None],
        torch.ones(len(latents), *latents.shape[2:]),
        prompts["mask"][:, None],
    )
    return out


@torch.no_grad()
def tiny_open_sora_plan_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        prompts: One row per branch; ``None`` for made-up ones.
    """
    work = tiny_denoising(case, layers, communicator)
    backbone = tiny_open_sora_plan_backbone(layers, case.seed)
    rows = prompts or tiny_masked_prompts(len(work.guidance.branches))
    return of_backbone(work, backbone, rows)
