"""Trains the demo model's diffusion transformer on encoded clips by flow matching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from demo_model import loop, text
from longtake.demo import shapes

FRAMES_PER_BATCH = 288
WINDOWS = (6, 6, 9, 9, 9, 12, 12, 18)
"""Lengths of the windows in latent frames, equally often; the batch is as many as fit."""

SHIFT = 3.0
NO_TEXT = 0.1
FROM_START = 0.25
STAGGERED = 0.3
"""Share of the batches whose frames differ in noise as the blocks of a long video do."""

RECIPE = loop.GenerationConfig(
    stage="dit", steps=5200, rate=1.5e-3, warmup=200, decay=0.01, average=0.999
)


class PaddedText:
    """Cross-attention that weights the slot of padding (see :func:`text.padding_bias`)."""

    def __init__(self) -> None:
        """Starts without a bias; set :attr:`bias` before every forward."""
        self.bias: Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: object = None,
    ) -> Tensor:
        """Attention of the video tokens to the text, as ``WanAttnProcessor`` does it."""
        del attention_mask, rotary_emb
        query = attn.norm_q(attn.to_q(hidden_states))
        key = attn.norm_k(attn.to_k(encoder_hidden_states))
        value = attn.to_v(encoder_hidden_states)
        query, key, value = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        bias = None if self.bias is None else self.bias.to(value.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        return projected


def new_transformer() -> WanTransformer3DModel:
    """An untrained transformer of 8 layers whose output starts at zero."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=8,
        out_channels=8,
        text_dim=text.WIDTH,
        freq_dim=64,
        ffn_dim=512,
        num_layers=8,
    )
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


def shifted(u: Tensor) -> Tensor:
    """Noise level of an evenly spaced time ``u`` from 0 (clean) to 1, as the sampler shifts it."""
    return SHIFT * u / (1.0 + (SHIFT - 1.0) * u)


def noise_levels(u: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Noise levels of all frames of a batch of windows.

    In a long video made block by block, the frames before a block are one step cleaner than the
    block and the ones after it one step noisier, while the transformer is told one time for all.

    Args:
        u: Time of every window, ``(B,)``.
        frames: Length of the windows in latent frames.
        generator: Source of the random numbers.

    Returns:
        Noise levels, 0 to 1, ``(B, frames)``.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    late = torch.zeros(frames)
    if torch.rand(1, generator=generator) < STAGGERED:
        before, after = draw(frames // 3, frames // 2), draw(0, frames // 3)
        late[:before] = -1.0
        late[frames - after :] = 1.0
    return shifted((u[:, None] + late / draw(8, 32)).clamp(0.0, 1.0))


def _batches(latents: Tensor, rows: Tensor) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Draws windows of the encoded clips and the prompts' numbers."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        frames = WINDOWS[int(torch.randint(len(WINDOWS), (1,), generator=generator))]
        count = FRAMES_PER_BATCH // frames
        chosen = torch.randint(latents.shape[0], (count,), generator=generator)
        last = latents.shape[2] - frames
        begin = int(torch.randint(last + 1, (1,), generator=generator))
        if torch.rand(1, generator=generator) < FROM_START:
            begin = 0
        return latents[chosen, :, begin : begin + frames].float(), rows[chosen]

    return draw


def train(encoded: Path, folder: Path, generation_config: loop.GenerationConfig = RECIPE) -> None:
    """Runs the stage.

    Args:
        encoded: File of the encoded clips.
        folder: Where the checkpoints go.
        generation_config: How long and how fast.
    """
    data = load_file(encoded)
    draw = _batches(data["latents"], data["prompts"].long())
    states, own = text.embed([*shapes.all_prompts(), ""])
    model = new_transformer().train()
    attention = PaddedText()
    for block in model.blocks:
        block.attn2.set_processor(attention)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, float]:
        clean, prompts = draw(generator)
        count, _, frames = clean.shape[:3]
        no_text = torch.rand(count, generator=generator) < NO_TEXT
        prompts = prompts.masked_fill(no_text, len(states) - 1)
        length = text.LENGTHS[int(torch.randint(len(text.LENGTHS), (1,), generator=generator))]
        attention.bias = text.padding_bias(own[prompts], states.shape[1], length)
        u = torch.sigmoid(torch.randn(count, generator=generator))
        levels = noise_levels(u, frames, generator)
        noise = torch.randn(clean.shape, generator=generator)
        mixed = torch.lerp(clean, noise, levels[:, None, :, None, None])
        made = model(mixed, shifted(u) * 1000.0, states[prompts], return_dict=False)[0]
        loss = (made - (noise - clean)).square().mean()
        return loss, float(loss.detach())

    loop.train(model, loss_of, generation_config, folder)
