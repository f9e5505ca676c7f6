"""LoRA names of Mochi's own code."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import NameTable, Swapped

_LAYER: Final = "transformer_blocks.*"
_ATTENTION: Final = f"{_LAYER}.attn1"
LORA_NAMES: Final[NameTable] = (
    (
        "blocks.*.attn.qkv_x",
        (f"{_ATTENTION}.to_q", f"{_ATTENTION}.to_k", f"{_ATTENTION}.to_v"),
    ),
    (
        "blocks.*.attn.qkv_y",
        (f"{_ATTENTION}.add_q_proj", f"{_ATTENTION}.add_k_proj", f"{_ATTENTION}.add_v_proj"),
    ),
    ("blocks.*.attn.proj_x", f"{_ATTENTION}.to_out.0"),
    ("blocks.*.attn.proj_y", f"{_ATTENTION}.to_add_out"),
    ("blocks.*.attn.q_norm_x", f"{_ATTENTION}.norm_q"),
    ("blocks.*.attn.k_norm_x", f"{_ATTENTION}.norm_k"),
    ("blocks.*.attn.q_norm_y", f"{_ATTENTION}.norm_added_q"),
    ("blocks.*.attn.k_norm_y", f"{_ATTENTION}.norm_added_k"),
    ("blocks.*.mod_x", f"{_LAYER}.norm1.linear"),
    ("blocks.*.mod_y", f"{_LAYER}.norm1_context.linear"),
    ("blocks.*.mod_y", f"{_LAYER}.norm1_context.linear_1"),  # of the last layer
    ("blocks.*.mlp_x.w1", Swapped(f"{_LAYER}.ff.net.0.proj")),
    ("blocks.*.mlp_x.w2", f"{_LAYER}.ff.net.2"),
    ("blocks.*.mlp_y.w1", Swapped(f"{_LAYER}.ff_context.net.0.proj")),
    ("blocks.*.mlp_y.w2", f"{_LAYER}.ff_context.net.2"),
    ("x_embedder.proj", "patch_embed.proj"),
    ("t_embedder.mlp.0", "time_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_embed.timestep_embedder.linear_2"),
    ("t5_y_embedder.to_kv", "time_embed.pooler.to_kv"),
    ("t5_y_embedder.to_q", "time_embed.pooler.to_q"),
    ("t5_y_embedder.to_out", "time_embed.pooler.to_out"),
    ("t5_yproj", "time_embed.caption_proj"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.mod", Swapped("norm_out.linear")),
)
