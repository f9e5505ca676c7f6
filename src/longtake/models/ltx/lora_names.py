"""LoRA names of LTX-Video's own code."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import NameTable

LORA_NAMES: Final[NameTable] = (
    ("patchify_proj", "proj_in"),
    ("adaln_single.linear", "time_embed.linear"),
    ("adaln_single.emb.timestep_embedder.linear_1", "time_embed.emb.timestep_embedder.linear_1"),
    ("adaln_single.emb.timestep_embedder.linear_2", "time_embed.emb.timestep_embedder.linear_2"),
    ("transformer_blocks.*.attn1.q_norm", "transformer_blocks.*.attn1.norm_q"),
    ("transformer_blocks.*.attn1.k_norm", "transformer_blocks.*.attn1.norm_k"),
    ("transformer_blocks.*.attn2.q_norm", "transformer_blocks.*.attn2.norm_q"),
    ("transformer_blocks.*.attn2.k_norm", "transformer_blocks.*.attn2.norm_k"),
)
