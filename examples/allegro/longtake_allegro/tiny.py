"""Tiny Allegro: a folder of random weights, for tests and for a first run without a download.

``python -m longtake_allegro.tiny out/tiny-allegro``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    DDIMScheduler,
)

from longtake.api import ModelFolder, randomize, save_folder, t5_encoder, word_tokenizer

WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "shape", "bird", "moves", "left", "fast")


def tiny_transformer(seed: int = 0) -> Any:
    """Return a transformer of 3 layers of 2 heads."""
    dit = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=3,
        sample_height=8, sample_width=8, sample_frames=6, caption_channels=8,
    )  # fmt: skip
    return randomize(dit, seed)


def tiny_vae(seed: int = 0) -> Any:
    """Return a VAE: 2 times smaller, 4 video frames per latent frame."""
    vae = AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 2, up_block_types=("AllegroUpBlock3D",) * 2,
        block_out_channels=(8, 8), temporal_downsample_blocks=(True, True),
        temporal_upsample_blocks=(True, True), layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    return randomize(vae, seed)


def tiny_folder(path: Path) -> ModelFolder:
    """Save a pipeline of random weights as a model folder."""
    return save_folder(
        AllegroPipeline(
            tokenizer=word_tokenizer(WORDS, closed=True),
            text_encoder=t5_encoder(len(WORDS), 8, seed=0),
            vae=tiny_vae(),
            transformer=tiny_transformer(),
            scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        ),
        path,
    )


if __name__ == "__main__":
    tiny_folder(Path(sys.argv[1]))
