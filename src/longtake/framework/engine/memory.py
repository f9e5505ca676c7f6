"""Memory of a run, by part and rank, and the refusal of what does not fit into a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self, final

from longtake.caches import FeatureCache, kept_bytes
from longtake.errors import ConfigurationError
from longtake.framework.engine.preflight import held_frames, weight_bytes
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.models.counting import WeightCount
from longtake.models.decoders.tiles import tile_grid
from longtake.models.footprint import Footprint, measure
from longtake.plan.cost.memory import RankMemory, frame_bytes, rank_memory, reused_bytes
from longtake.plan.cost.rundown import Widest, rundown
from longtake.plan.cost.simulator import bounded
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler
from longtake.task import Video

_GIB: Final = 2**30
_TILE: Final = 256
"""Pixels along the side of a tile that is proposed."""
_AT_ONCE: Final = 3
"""Layers on the device where they wait in host memory: one that runs, the next one, and the one
before until its last kernel has run."""
_HALF: Final = 2
"""Bytes of a number of 16 bits."""
_NAMES: Final = {
    "weights": "weights",
    "kv": "keys and values",
    "activations": "activations",
    "messages": "messages",
    "latents": "latents",
    "vae": "VAE and its state",
    "vae_peak": "decoding",
}


@dataclass(frozen=True, slots=True)
class Played:
    """What the schedule of a workload says of its memory, whatever the layout.

    Args:
        window: The largest forward.
        frames: Latent frames whose keys and values are held at most.
        later: The largest forward after the first block has come out.
    """

    window: Widest
    frames: int
    later: Widest | None = None

    @classmethod
    def of(cls, workload: Workload) -> Self:
        """Play a workload's schedule."""
        tasks = rundown(bounded(workload))
        return cls(tasks.widest, held_frames(workload), tasks.widest_later)


@final
class RunMemory:
    """Measures a model's parts once for each size of picture, and adds up what ranks hold.

    Args:
        model: Makes the videos.
    """

    def __init__(self, model: ResolvedModel) -> None:
        self._model = model
        self._measured: dict[tuple[int, int], Footprint] = {}
        self._played: dict[tuple[BlockScheduler, FeatureCache, Video], Played] = {}

    def of(
        self,
        workload: Workload,
        layout: Layout,
        *,
        starts: bool = False,
        played: Played | None = None,
    ) -> list[RankMemory]:
        """Return what every rank holds, rank 0 first.

        Args:
            workload: What is made.
            layout: Which rank holds and runs what.
            starts: Whether the video goes on from given frames.
            played: Of the workload; ``None``: its schedule is played now.
        """
        footprint = self.footprint(workload.height, workload.width)
        weights, known = self._model.count_weights(), played or self._play(workload)
        window, frames, found = known.window, known.frames, list[RankMemory]()
        config = self._model.generation_config
        per_number = kept_bytes(config.cache_format, workload.item_bytes, workload.spec.head_dim)
        for rank in range(layout.size):
            mesh = rank < layout.mesh.size
            kept = frames * frame_bytes(workload, layout, rank) if mesh else 0
            reused = reused_bytes(workload, layout, rank, window) if mesh else 0
            memory = rank_memory(
                workload,
                layout,
                rank,
                footprint,
                window,
                weights=self._weights(workload, layout, rank, weights) if mesh else 0,
                kv=int(kept * per_number / workload.item_bytes) + reused,
                starts=starts,
                later=known.later,
            )
            if config.offload == "layers" and mesh:
                whole = self._held(workload, layout, rank, weights)
                memory = replace(memory, host=memory.host + whole)
            if config.offload != "none":
                memory = replace(memory, text=0)
            found.append(memory)
        return found

    def _play(self, workload: Workload) -> Played:
        """Return what a schedule says, which is played once."""
        key = workload.scheduler, workload.cache, workload.video
        if key not in self._played:
            self._played[key] = Played.of(workload)
        return self._played[key]

    def _weights(
        self, workload: Workload, layout: Layout, rank: int, weights: WeightCount | None
    ) -> int:
        """Return the bytes of a rank's weights on its device: few of layers that wait."""
        whole = self._held(workload, layout, rank, weights)
        if weights is None or self._model.generation_config.offload != "layers":
            return whole
        rest = weights.rest * workload.item_bytes
        layers = max(1, len(layout.layers(rank)))
        return rest + (whole - rest) * min(_AT_ONCE, layers) // layers

    def _held(
        self, workload: Workload, layout: Layout, rank: int, weights: WeightCount | None
    ) -> int:
        """Return the bytes of a rank's weights, on its device or in host memory."""
        whole = weight_bytes(workload, layout, rank, weights)
        if weights is None or self._model.generation_config.quantization.transformer is None:
            return whole
        rest = weights.rest * workload.item_bytes
        return rest + (whole - rest) // workload.item_bytes

    def footprint(self, height: int, width: int) -> Footprint:
        """Return the footprint of the model's parts for a picture of a latent size."""
        model, compression = self._model, self._model.spec.compression
        tile = model.generation_config.vae_tile
        if tile is not None:
            height, width = tile_grid(height, width, tile, compression).largest
        if (height, width) not in self._measured:
            self._measured[height, width] = self._measure(height, width)
        return self._measured[height, width]

    def _measure(self, height: int, width: int) -> Footprint:
        """Return a footprint in the formats of the configuration."""
        model, config = self._model, self._model.generation_config
        dtype = config.torch_dtype
        found = measure(model.blank, height, width)
        if config.quantization.text_encoder is not None:
            linear = found.text - found.text_embeddings
            found = replace(found, text=found.text_embeddings + linear // dtype.itemsize)
        narrower = 1 if config.vae_dtype == "float32" else 2  # a footprint is in fp32
        return replace(
            found,
            decoder=found.decoder // narrower,
            decoder_state=found.decoder_state // narrower,
            decoder_peak=found.decoder_peak // narrower,
            decoder_workspace=found.decoder_workspace // narrower,
        )

    def check(self, workload: Workload, layout: Layout, *, starts: bool = False) -> None:
        """Refuse a run that needs more than a device has, before any weight is read.

        Args:
            workload: What is made.
            layout: Which rank holds and runs what.
            starts: Whether the video goes on from given frames.

        Raises:
            ConfigurationError: Names the parts, their sizes, and what would make it fit.
        """
        limit = workload.hardware.memory
        for rank, memory in enumerate(self.of(workload, layout, starts=starts)):
            if memory.peak > limit:
                raise ConfigurationError(self._refusal(workload, layout, rank, memory))

    def _refusal(self, workload: Workload, layout: Layout, rank: int, memory: RankMemory) -> str:
        has = f"but its device has {_gib(workload.hardware.memory)}"
        if memory.running <= workload.hardware.memory:
            text = memory.text == memory.peak
            encoders = "text encoders" if text else "encoders of given frames"
            ways = self._ways_to_encode(memory, workload.hardware.memory) if text else ()
            remedies = ", or ".join([*ways, "a larger device"])
            return (
                f"the {encoders} need {_gib(memory.peak)} on rank {rank}, {has}; what would fit: "
                f"{remedies}."
            )
        parts = ", ".join(f"{_gib(size)} of {words}" for words, size in _largest_first(memory))
        remedies = ", or ".join(self._remedies(workload, layout, memory))
        return (
            f"with {type(workload.cache).__name__} the run needs {_gib(memory.running)} on rank "
            f"{rank} ({parts}), {has}; what would fit: {remedies or 'more or larger devices'}."
        )

    def _ways_to_encode(self, memory: RankMemory, limit: float) -> Iterator[str]:
        """Yield single changes that would make text encoders fit."""
        config = self._model.generation_config
        yield "model.offload text_encoder (encoded on the CPU)"
        item = config.torch_dtype.itemsize
        if config.quantization.text_encoder is None and memory.text // item <= limit:
            yield "model.quantize {text_encoder: int8}"
        if item > _HALF and memory.text * _HALF // item <= limit:
            yield "16 bits for each number (model.dtype bfloat16)"

    def _remedies(self, workload: Workload, layout: Layout, memory: RankMemory) -> Iterator[str]:
        """Yield single changes that would make a rank's part of a run fit."""
        limit = workload.hardware.memory
        if memory.running - memory.kv <= limit:
            yield (
                "a feature cache that holds less (NextBlockKV, NoCache, fewer frames of "
                "RollingKV), fewer steps or fewer context_frames"
            )
        yield from self._ways_to_hold(workload, layout, memory)
        if memory.vae and self._model.generation_config.vae_tile is None:
            small = self._tiled(workload, memory)
            if small <= limit:
                yield f"model.vae_tile {_TILE} ({_gib(small)})"
        elsewhere = replace(memory, vae=0, vae_peak=0)
        if memory.vae and layout.size > layout.decoders + 1 and elsewhere.running <= limit:
            yield "trainer.strategy.decode_devices 1"
        shared = memory.weights + memory.kv
        rest = memory.running - shared
        if limit > rest:
            stages = -(-shared * layout.mesh.pipe // int(limit - rest))
            if layout.mesh.pipe < stages <= workload.spec.layers:
                yield f"{stages} pipeline stages in place of {layout.mesh.pipe}"

    def _ways_to_hold(
        self, workload: Workload, layout: Layout, memory: RankMemory
    ) -> Iterator[str]:
        """Yield single changes of how numbers are held, and where, that would make it fit."""
        config, limit = self._model.generation_config, workload.hardware.memory
        layers = max(1, max(map(len, layout.stages)))
        on_device = memory.weights * min(_AT_ONCE, layers) // layers
        if config.offload != "layers" and memory.running - memory.weights + on_device <= limit:
            yield "model.offload layers (all of them wait in host memory)"
        saved = memory.weights - memory.weights // workload.item_bytes
        if config.quantization.transformer is None and memory.running - saved <= limit:
            yield "model.quantize {transformer: int8}"
        saved = memory.kv - memory.kv // workload.item_bytes
        if config.cache_format == "model" and memory.kv and memory.running - saved <= limit:
            yield "model.cache_format int8"

    def _tiled(self, workload: Workload, memory: RankMemory) -> int:
        """Return what a rank would need if it decoded in tiles."""
        compression = self._model.spec.compression
        grid = tile_grid(workload.height, workload.width, _TILE, compression)
        tile = self._measure(*grid.largest)
        state = tile.decoder + len(grid.tiles) * tile.decoder_state
        return replace(memory, vae=state, vae_peak=tile.decoder_peak).running


def _largest_first(memory: RankMemory) -> list[tuple[str, int]]:
    """Return what is held at the fullest moment, in words: of a task, or while it decodes."""
    if memory.beside + memory.vae_peak > memory.activations:
        memory = replace(memory, activations=memory.beside)
    else:
        memory = replace(memory, vae_peak=0)
    sizes = [(words, getattr(memory, part)) for part, words in _NAMES.items()]
    return sorted((one for one in sizes if one[1]), key=lambda one: -one[1])


def _gib(size: float) -> str:
    return f"{size / _GIB:,.1f} GiB"
