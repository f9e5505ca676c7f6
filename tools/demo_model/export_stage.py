"""Writes the trained parts as a ``WanPipeline`` folder in half precision."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file

from demo_model import dit_stage, encode_stage, loop, text

PARTS = {
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def _write_index(out: Path) -> None:
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": diffusers.__version__,
        "boundary_ratio": None,
        "expand_timesteps": False,
        **PARTS,
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_text(out: Path) -> None:
    tokenizer = text.new_tokenizer()
    tokenizer.save_pretrained(out / "tokenizer")
    path = out / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name every release knows
    path.write_text(json.dumps(config, indent=2) + "\n")
    text.new_encoder(len(tokenizer)).save_pretrained(out / "text_encoder")


def export(
    vae_folder: Path, encoded: Path, dit_folder: Path, decoder_folder: Path, out: Path
) -> None:
    """Writes the folder; a README in ``out`` is kept.

    Args:
        vae_folder: Checkpoints of the autoencoder.
        encoded: File of the encoded clips, for the latents' mean and spread.
        dit_folder: Checkpoints of the transformer.
        decoder_folder: Checkpoints of the sharpened decoder.
        out: Folder to make or to renew.
    """
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    vae = encode_stage.trained_vae(vae_folder)
    loop.averaged(vae.decoder, decoder_folder)
    statistics = load_file(encoded)
    vae.register_to_config(
        latents_mean=statistics["mean"].tolist(), latents_std=statistics["std"].tolist()
    )
    vae.to(torch.float16).save_pretrained(draft / "vae")
    transformer = dit_stage.new_transformer()
    step = loop.averaged(transformer, dit_folder)
    transformer.to(torch.float16).save_pretrained(draft / "transformer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=dit_stage.SHIFT
    ).save_pretrained(draft / "scheduler")
    _write_text(draft)
    _write_index(draft)
    for made in draft.iterdir():
        target = out / made.name
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(made, target)
    draft.rmdir()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"export: transformer of step {step}, {size / 1e6:.1f} MB in {out}", flush=True)
