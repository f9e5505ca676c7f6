"""Measures what windows make of Open-Sora-Plan's sparse layers, against the full video.

    python benchmarks/sparse_windows.py

A sparse layer groups a window's tokens as the model groups a clip that begins where the window
begins; the groups of the full video are counted from its first frame. One forward of every
block's window, the context after it read from the keys and values that the next block has kept
(as NextBlockKV does), is compared with the same frames of one forward of the full video, with a
recorded case's weights, which are random, on noise: root mean square, relative.

- full: all layers attend to all tokens. Not what the model is: for scale.
- sparse: as longtake runs the model.
- video's groups: windows grouped as the full video groups these tokens.

At the sizes that the model allows, multiples of 32 pixels, a frame has a multiple of 4 tokens, and
the window's groups are the video's: the last two columns are equal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.models import Grid, PromptStates
from longtake.models.layers.groups import TokenGroups
from longtake.models.layers.kernel import attend_with, attention_kernel
from longtake.models.open_sora_plan import (
    OpenSoraPlanBackbone,
    OpenSoraPlanConfig,
    OpenSoraPlanTransformer,
)
from longtake.models.open_sora_plan.attention import KeyValue
from longtake.models.spec import BackboneSpec, Compression
from longtake.strategies.exchange import in_groups, split
from longtake.task import FrameRange
from longtake.testing.window import Run

CASE = Path(__file__).parent.parent / "tests" / "cases" / "opensora-plan-a"
FRAMES, BLOCK, CONTEXT, TIMESTEP = 24, 6, 4, 731.0
SIZES = [(8, 8), (6, 8), (6, 10), (6, 6)]
"""Latent height and width."""
EVERYTHING = TokenGroups(1)
"""All tokens in one group."""


def main() -> None:
    """Print the table."""
    print(machine())
    backbone = load()
    text = load_file(CASE / "inputs.safetensors")
    prompts = {
        "states": text["encoder_hidden_states"][:, 0],
        "mask": text["encoder_attention_mask"][:, 0].bool(),
    }
    rows = []
    for height, width in SIZES:
        generator = torch.Generator().manual_seed(0)
        video = torch.randn(1, 8, FRAMES, height, width, generator=generator)
        found = [difference(backbone, video, prompts, kind) for kind in ("full", "window", "video")]
        tokens = backbone.spec.tokens_per_frame(height, width)
        rows.append([str(tokens), *(f"{value:.4f}" for value in found)])
    print(table(["tokens per frame", "full", "sparse", "video's groups"], rows))


def load() -> OpenSoraPlanBackbone:
    """Return the model of the recorded case."""
    config = OpenSoraPlanConfig.read(json.loads((CASE / "case.json").read_text())["config"])
    transformer = OpenSoraPlanTransformer(config)
    transformer.load_state_dict(load_file(CASE / "transformer.safetensors"))
    spec = BackboneSpec(
        name="Open-Sora-Plan",
        channels=config.in_channels,
        patch=(1, config.patch_size, config.patch_size),
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        layers=config.num_layers,
        native_frames=24,
        compression=Compression(temporal=4, spatial=8),
        sparse="groups" if config.sparse1d else None,
    )
    return OpenSoraPlanBackbone(spec, transformer, range(spec.layers))


@torch.no_grad()
def difference(
    backbone: OpenSoraPlanBackbone, video: Tensor, prompts: PromptStates, kind: str
) -> float:
    """Return how far windows are from the full video: root mean square, relative."""
    whole, _ = predict(backbone, video, prompts, FrameRange(0, FRAMES), kind, {})
    parts, kept = list[Tensor](), dict[int, KeyValue]()
    for start in reversed(range(0, FRAMES, BLOCK)):  # the newest block first, as in the queue
        first = max(0, start - CONTEXT)
        frames = FrameRange(first, start + BLOCK)
        window, keys = predict(backbone, video, prompts, frames, kind, kept)
        parts.insert(0, window[:, :, start - first :])
        per_frame = backbone.spec.tokens_per_frame(*video.shape[3:])
        own = slice((start - first) * per_frame, (start - first + CONTEXT) * per_frame)
        kept = {index: (k[:, own], v[:, own]) for index, (k, v) in keys.items()}
    return float((torch.cat(parts, dim=2) - whole).norm() / whole.norm())


def predict(
    backbone: OpenSoraPlanBackbone,
    video: Tensor,
    prompts: PromptStates,
    frames: FrameRange,
    kind: str,
    after: dict[int, KeyValue],
) -> tuple[Tensor, dict[int, KeyValue]]:
    """Return the prediction of a window, and the keys and values of its tokens in every layer.

    Args:
        backbone: The model.
        video: Latents of all frames.
        prompts: One row.
        frames: Those of the window that are computed.
        kind: How tokens are grouped.
        after: Keys and values of the frames behind them, by layer.
    """
    _, _, _, height, width = video.shape
    run = Run(backbone, Grid.of(frames, height=height, width=width), TIMESTEP, prompts)
    hidden = run.embed(video[:, :, frames.start : frames.stop])
    per_frame = backbone.spec.tokens_per_frame(height, width)
    first = frames.start * per_frame if kind == "video" else 0
    keys: dict[int, KeyValue] = {}
    for index in range(backbone.spec.layers):
        sparse = None if kind == "full" else backbone.token_groups(index)

        def kernel(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            at: int = index,
            groups: TokenGroups = sparse or EVERYTHING,
        ) -> Tensor:
            keys[at] = k, v
            if at in after:
                k, v = (torch.cat(pair, dim=1) for pair in zip((k, v), after[at], strict=True))
            queries, places = (range(first, first + one.shape[1]) for one in (q, k))
            members = split(groups, queries, [[places]])
            return in_groups([attention_kernel for _ in members], members)(q, k, v)

        hidden = run.layer(index, hidden, attend_with(kernel))
    return run.head(hidden), keys


if __name__ == "__main__":
    main()
