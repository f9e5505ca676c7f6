"""LoRA names of CogVideoX's own code."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import Halves, NameTable

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
    (
        "mixins.adaln_layer.adaLN_modulations.*.1",
        Halves((f"{_OURS}.norm1.linear", f"{_OURS}.norm2.linear")),
    ),
    ("mixins.adaln_layer.query_layernorm_list.*", f"{_OURS}.attn1.norm_q"),
    ("mixins.adaln_layer.key_layernorm_list.*", f"{_OURS}.attn1.norm_k"),
    ("transformer.final_layernorm", "norm_final"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("mixins.patch_embed.proj", "patch_embed.proj"),
    ("mixins.patch_embed.text_proj", "patch_embed.text_proj"),
    ("mixins.final_layer.norm_final", "norm_out.norm"),
    ("mixins.final_layer.linear", "proj_out"),
    ("mixins.final_layer.adaLN_modulation.1", "norm_out.linear"),
    ("ofs_embed.0", "ofs_embedding.linear_1"),
    ("ofs_embed.2", "ofs_embedding.linear_2"),
    *(  # tables of positions, which diffusers makes anew where they are not learned
        (name, ())
        for name in (
            "mixins.pos_embed.pos_embedding",
            "mixins.pos_embed.freqs_sin",
            "mixins.pos_embed.freqs_cos",
            "transformer.position_embeddings",
            "transformer.word_embeddings",
        )
    ),
    ("mixins.pos_embed.pos_embedding", "patch_embed.pos_embedding"),
)
