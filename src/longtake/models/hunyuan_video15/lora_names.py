"""LoRA names of HunyuanVideo 1.5's own code."""

from __future__ import annotations

from typing import Final

from longtake.models.hunyuan_video.lora_names import DOUBLE, HEAD, REFINER
from longtake.models.loading.lora.names import NameTable

LORA_NAMES: Final[NameTable] = (
    *REFINER,
    *DOUBLE,
    *HEAD,
    *(
        (f"double_blocks.*.{theirs}_{part}", f"transformer_blocks.*.attn.{ours}")
        for part in "qkv"
        for theirs, ours in (("img_attn", f"to_{part}"), ("txt_attn", f"add_{part}_proj"))
    ),
    ("img_in.proj", "x_embedder.proj"),
    ("time_in.mlp.0", "time_embed.timestep_embedder.linear_1"),
    ("time_in.mlp.2", "time_embed.timestep_embedder.linear_2"),
    ("cond_type_embedding", "cond_type_embed"),
    ("byt5_in.layernorm", "context_embedder_2.norm"),
    ("byt5_in.fc1", "context_embedder_2.linear_1"),
    ("byt5_in.fc2", "context_embedder_2.linear_2"),
    ("byt5_in.fc3", "context_embedder_2.linear_3"),
    ("vision_in.proj.0", "image_embedder.norm_in"),
    ("vision_in.proj.1", "image_embedder.linear_1"),
    ("vision_in.proj.3", "image_embedder.linear_2"),
    ("vision_in.proj.4", "image_embedder.norm_out"),
)
