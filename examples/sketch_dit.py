"""A small diffusion transformer and VAE as their authors would write them, without longtake.

Learned frame positions instead of rotary ones, text by addition, a VAE of one linear layer.
``plug_in_backbone.py`` makes them run under every scheduler, cache and strategy of longtake.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

CHANNELS, PIXELS, LETTERS = 4, 8, "etaoinsh"
"""Latent channels, pixels per latent position, and what the text encoder counts."""


class Layer(nn.Module):
    """Self-attention and a feed-forward, both conditioned by addition."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, condition: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """Run the layer on ``(B, S, M)``."""
        qkv = self.qkv(self.norm(x + condition)).unflatten(2, (3 * self.heads, -1))
        x = x + self.out(attend(*qkv.chunk(3, 2)).flatten(2))
        out: Tensor = x + self.mlp(x + condition)
        return out


class SketchDiT(nn.Module):
    """The transformer; a token is one latent position."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(CHANNELS, dim), nn.Linear(dim, CHANNELS)
        self.frame = nn.Embedding(64, dim)  # positions repeat after 64 frames
        self.text, self.time = nn.Linear(len(LETTERS), dim), nn.Linear(1, dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))


class SketchVAE(nn.Module):
    """A latent position is 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Linear(CHANNELS, 3 * PIXELS**2)


def save_random(path: Path) -> None:
    """Save random weights as a model folder."""
    torch.manual_seed(0)
    dit = {"dim": 24, "heads": 2, "layers": 3}
    for name, model, config in (("transformer", SketchDiT(**dit), dit), ("vae", SketchVAE(), {})):
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text(json.dumps(config))
        save_file(model.state_dict(), path / name / "model.safetensors")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.save_pretrained(path / "scheduler")
    index = {
        "_class_name": "SketchPipeline",
        "scheduler": ["diffusers", type(scheduler).__name__],
        "transformer": ["sketch_dit", "SketchDiT"],
        "vae": ["sketch_dit", "SketchVAE"],
    }
    (path / "model_index.json").write_text(json.dumps(index))
