"""LoRA names of CogVideoX's own code."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import NameTable

_THEIRS, _OURS = "transformer.layers.*", "transformer_blocks.*"
LORA_NAMES: Final[NameTable] = (
    (
        f"{_THEIRS}.attention.query_key_value",
        (f"{_OURS}.attn1.to_q", f"{_OURS}.attn1.to_k", f"{_OURS}.attn1.to_v"),
    ),
    (f"{_THEIRS}.attention.dense", f"{_OURS}.attn1.to_out.0"),
    (f"{_THEIRS}.mlp.dense_h_to_4h", f"{_OURS}.ff.net.0.proj"),
    (f"{_THEIRS}.mlp.dense_4h_to_h", f"{_OURS}.ff.net.2"),
    (f"{_THEIRS}.input_layernorm", f"{_OURS}.norm1.norm"),
    (f"{_THEIRS}.post_attention_layernorm", f"{_OURS}.norm2.norm"),
    ("transformer.final_layernorm", "norm_final"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("mixins.patch_embed.proj", "patch_embed.proj"),
    ("mixins.patch_embed.text_proj", "patch_embed.text_proj"),
    ("mixins.final_layer.norm_final", "norm_out.norm"),
    ("mixins.final_layer.linear", "proj_out"),
    ("mixins.final_layer.adaLN_modulation.1", "norm_out.linear"),
)
"""The layers' modulations are cut and mixed otherwise there, so they have no line here."""
