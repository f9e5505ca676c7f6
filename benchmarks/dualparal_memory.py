"""Measures what a rank of a pipeline holds: its own share of the weights, and never the others.

    python benchmarks/dualparal_memory.py

Saves a random-weight Wan in Wan 1.3B's proportions (30 layers, half the model dim, bfloat16) as a
sharded diffusers folder, loads and runs it on 1, 2 and 4 gloo ranks, one process each, and
compares the peak resident memory of every rank, above what its imports hold, with

    weights / stages + activations

where weights are the files' bytes and activations what the run on 1 rank needs beyond them. The
bar is 10 %. Beyond its layers a rank holds the text and time embedders, which every stage needs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import PEAK, machine, reset_peak, resident, table

from longtake.caches import NextBlockKV
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import DiffusersSampler, Placement, family_of, open_folder
from longtake.noise import NoiseSource, SharedPool
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue
from longtake.strategies import Communicator, Denoising, DualParal
from longtake.task import Video
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import tiny_scheduler, tiny_tokenizer, tiny_wan_vae

LAYERS, HEADS, FFN, TEXT, TOKENS = 30, 6, 4480, 4096, 64
SIDE, BLOCK, BLOCKS, STEPS = 8, 4, 3, 2


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one rank, in bytes above what its imports hold.

    Args:
        weights: Of the tensors that it holds.
        peak: Most resident memory, from loading to the end of the run.
    """

    weights: int
    peak: int


def save_model(path: Path) -> int:
    """Save a pipeline folder with shards of 100 MB, and return the bytes of its transformer."""
    torch.manual_seed(0)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=HEADS, ffn_dim=FFN, num_layers=LAYERS, text_dim=TEXT
        )
    transformer = transformer.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in transformer.parameters():
        parameter.data.normal_(std=0.02)
    pipeline = WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=None,
        vae=tiny_wan_vae(),
        scheduler=tiny_scheduler(),
        transformer=transformer,
    )
    pipeline.save_pretrained(path, max_shard_size="100MB")
    return sum(file.stat().st_size for file in (path / "transformer").glob("*.safetensors"))


@torch.no_grad()
def measure(communicator: Communicator, path: str) -> Memory:
    """Load this rank's layers, run a short video, and tell what it held."""
    stages = tuple(
        range(LAYERS * i // communicator.world_size, LAYERS * (i + 1) // communicator.world_size)
        for i in range(communicator.world_size)
    )
    layout = Layout(mesh=Mesh(pipe=communicator.world_size), stages=stages, batches=(range(2),))
    gc.collect()
    before = resident()
    reset_peak()
    folder = open_folder(path)
    family = family_of(folder)
    place = Placement(torch.device("cpu"), torch.bfloat16)
    spec = family.spec(folder)
    backbone = family.load_backbone(folder, spec, layout.layers(communicator.rank), place)
    prompts = torch.randn(2, TOKENS, TEXT, generator=torch.Generator().manual_seed(1))
    text = lru_cache(
        lambda branches: backbone.condition_text(
            {"states": prompts[list(branches)].to(torch.bfloat16)}
        )
    )
    queue, frames = FifoQueue(BLOCK, BLOCK), BLOCK * (BLOCKS + 1)
    source = NoiseSource(seed=0, channels=spec.channels, height=SIDE, width=SIDE)
    work = Denoising(
        backbone=backbone,
        tasks=queue.tasks(Video(frames, STEPS)),
        noise=SharedPool().blocks(source, queue.blocks(frames)),
        cache=NextBlockKV(),
        sampler=DiffusersSampler(tiny_scheduler(), STEPS),
        guidance=ClassifierFreeGuidance(GuidanceSettings(scales=(5.0,))),
        text=lambda _frames, branches: text(branches),
        height=SIDE,
        width=SIDE,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        communicator=communicator,
    )
    for _ in DualParal().run(work, layout, communicator.rank):
        pass
    held = [thing for thing in gc.get_objects() if type(thing) is torch.nn.Parameter]
    weights = sum(parameter.nbytes for parameter in held if not parameter.is_meta)
    return Memory(weights, resident(PEAK) - before)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4])
    stages = parser.parse_args().stages
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights, activations = save_model(Path(folder)), 0
        for count in [1, *(count for count in stages if count > 1)]:
            pool = RankPool(count, timeout=600)
            pool.run(measure_nothing)
            ranks = pool.run(measure, folder)
            pool.close()
            if count == 1:
                activations = ranks[0].peak - weights
            bound = weights / count + activations
            worst = max(rank.peak for rank in ranks)
            rows.append(
                [
                    str(count),
                    ", ".join(f"{rank.weights / 1e6:.0f}" for rank in ranks),
                    ", ".join(f"{rank.peak / 1e6:.0f}" for rank in ranks),
                    f"{bound / 1e6:.0f}",
                    f"{100 * (worst / bound - 1):+.1f} %",
                ]
            )
    print(f"weights {weights / 1e6:.0f} MB, activations {activations / 1e6:.0f} MB\n")
    header = ["stages", "weights by rank, MB", "peak by rank, MB", "bound, MB", "largest over it"]
    print(table(header, rows))


def measure_nothing(communicator: Communicator) -> None:
    """Let a rank import and connect before its memory is looked at."""


if __name__ == "__main__":
    main()
