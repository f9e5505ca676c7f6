"""LoRA names of Wan's own code, which most of its trainers use."""

from __future__ import annotations

from typing import Final

from longtake.models.loading.lora.names import NameTable

_ATTENTIONS: Final = {"self_attn": "attn1", "cross_attn": "attn2"}
_PROJECTIONS: Final = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "norm_k_img": "norm_added_k",
}
LORA_NAMES: Final[NameTable] = (
    *(
        (f"blocks.*.{theirs}.{module}", f"blocks.*.{ours}.{renamed}")
        for theirs, ours in _ATTENTIONS.items()
        for module, renamed in _PROJECTIONS.items()
    ),
    ("blocks.*.ffn.0", "blocks.*.ffn.net.0.proj"),
    ("blocks.*.ffn.2", "blocks.*.ffn.net.2"),
    ("blocks.*.norm3", "blocks.*.norm2"),
    ("blocks.*.modulation", "blocks.*.scale_shift_table"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
)
"""Also of SkyReels-V2, whose transformer is Wan's."""
