"""LoRA names of HunyuanVideo's own code, and of ComfyUI's copy of it."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import NameTable, Swapped

REFINER: Final[NameTable] = tuple(
    (f"txt_in.{theirs}", f"context_embedder.{ours}")
    for theirs, ours in {
        "input_embedder": "proj_in",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "c_embedder.linear_1": "time_text_embed.text_embedder.linear_1",
        "c_embedder.linear_2": "time_text_embed.text_embedder.linear_2",
    }.items()
) + tuple(
    (f"txt_in.individual_token_refiner.blocks.*.{theirs}", place)
    for theirs, ours in {
        "norm1": "norm1",
        "norm2": "norm2",
        "self_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "self_attn_proj": "attn.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
        "adaLN_modulation.1": "norm_out.linear",
        "self_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "self_attn.proj": "attn.to_out.0",
        "mlp.0": "ff.net.0.proj",
        "mlp.2": "ff.net.2",
    }.items()
    for place in [
        tuple(
            f"context_embedder.token_refiner.refiner_blocks.*.{part}"
            for part in ((ours,) if isinstance(ours, str) else ours)
        )
    ]
)
"""The text refiner's, which HunyuanVideo 1.5 has too."""
_DOUBLE: Final = {
    "img_mod.linear": "norm1.linear",
    "img_attn_proj": "attn.to_out.0",
    "img_attn_q_norm": "attn.norm_q",
    "img_attn_k_norm": "attn.norm_k",
    "img_mlp.fc1": "ff.net.0.proj",
    "img_mlp.fc2": "ff.net.2",
    "txt_mod.linear": "norm1_context.linear",
    "txt_attn_proj": "attn.to_add_out",
    "txt_attn_q_norm": "attn.norm_added_q",
    "txt_attn_k_norm": "attn.norm_added_k",
    "txt_mlp.fc1": "ff_context.net.0.proj",
    "txt_mlp.fc2": "ff_context.net.2",
    "img_mod.lin": "norm1.linear",
    "img_attn.proj": "attn.to_out.0",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.proj": "attn.to_add_out",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
DOUBLE: Final[NameTable] = tuple(
    (f"double_blocks.*.{theirs}", f"transformer_blocks.*.{ours}")
    for theirs, ours in _DOUBLE.items()
)
"""Layers with weights of their own for text, but for queries, keys and values."""
HEAD: Final[NameTable] = (
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", Swapped("norm_out.linear")),
)
_SINGLE: Final = {
    "linear2": "proj_out",
    "q_norm": "attn.norm_q",
    "k_norm": "attn.norm_k",
    "modulation.linear": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "modulation.lin": "norm.linear",
}
_LAYER, _ALONE = "transformer_blocks.*.attn", "single_transformer_blocks.*"
_ADDED: Final = (f"{_LAYER}.add_q_proj", f"{_LAYER}.add_k_proj", f"{_LAYER}.add_v_proj")
_OWN: Final = (f"{_LAYER}.to_q", f"{_LAYER}.to_k", f"{_LAYER}.to_v")
LORA_NAMES: Final[NameTable] = (
    *REFINER,
    *DOUBLE,
    *HEAD,
    ("double_blocks.*.img_attn_qkv", _OWN),
    ("double_blocks.*.img_attn.qkv", _OWN),
    ("double_blocks.*.txt_attn_qkv", _ADDED),
    ("double_blocks.*.txt_attn.qkv", _ADDED),
    (
        "single_blocks.*.linear1",
        (
            f"{_ALONE}.attn.to_q",
            f"{_ALONE}.attn.to_k",
            f"{_ALONE}.attn.to_v",
            f"{_ALONE}.proj_mlp",
        ),
    ),
    *((f"single_blocks.*.{theirs}", f"{_ALONE}.{ours}") for theirs, ours in _SINGLE.items()),
    ("img_in.proj", "x_embedder.proj"),
    ("time_in.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("guidance_in.mlp.0", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.mlp.2", "time_text_embed.guidance_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
)
