"""Everything that can be refused, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import psutil
import torch
from safetensors import SafetensorError, safe_open

from longtake.caches import peak_held_frames
from longtake.errors import ConfigurationError, ModelError
from longtake.framework.recipe import Recipe
from longtake.framework.request import Request
from longtake.models import BackboneSpec, ModelFolder
from longtake.schedulers import BlockScheduler

_WEIGHTED = ("text_encoder", "transformer", "transformer_2", "vae")


def check_weights(folder: ModelFolder) -> None:
    """Refuse a folder whose weights are missing, pickles or broken. Reads headers, no tensors.

    Raises:
        ModelError: Names the file or folder and what is there instead.
    """
    if not (folder.path / "tokenizer").is_dir() and folder.has("tokenizer"):
        raise ModelError(f"{folder.path} has no tokenizer folder.")
    for component in _WEIGHTED:
        if not folder.has(component):
            continue
        folder.config(component)
        for file in sorted(set(folder.weight_files(component).values())):
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                pointer = file.stat().st_size < 1024 and b"git-lfs" in file.read_bytes()
                raise ModelError(
                    f"{file} is a Git LFS pointer, not the weights; run git lfs pull there."
                    if pointer
                    else f"{file} is no whole safetensors file: {error}."
                ) from error


def check_launch(ranks: int, environment: Mapping[str, str]) -> None:
    """Refuse a launcher that started another number of processes than the run asks for.

    Otherwise every process would make the same video into the same file.

    Args:
        ranks: Devices times nodes.
        environment: The process's environment variables.

    Raises:
        ConfigurationError: Names both numbers and the launcher.
    """
    for launcher, variable in (("torchrun", "TORCHELASTIC_RUN_ID"), ("srun", "SLURM_STEP_ID")):
        count = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}[launcher]
        if variable in environment and environment.get(count, str(ranks)) != str(ranks):
            raise ConfigurationError(
                f"{launcher} started {environment[count]} processes, but trainer.devices times "
                f"trainer.num_nodes is {ranks}; make them equal."
            )


def check_request(request: Request, spec: BackboneSpec, scheduler: BlockScheduler) -> None:
    """Refuse a request that the model cannot serve.

    Raises:
        ConfigurationError: Names the number that was asked for and the nearest valid ones.
    """
    _check_size("height", request.height, spec.compression.spatial * spec.patch[1])
    _check_size("width", request.width, spec.compression.spatial * spec.patch[2])
    if request.fps < 1:
        raise ConfigurationError(f"data.fps is {request.fps}, but a video has at least 1.")
    if request.num_frames is not None:
        try:
            latent_frames = spec.compression.latent_frames(request.num_frames)
        except ValueError as error:
            raise ConfigurationError(f"data.{error}") from error
    else:
        latent_frames = None
    # Asks the scheduler for its first block: it refuses what it cannot cut.
    next(iter(scheduler.blocks(latent_frames)))


def check_guidance(guidance_scale_2: float | None, spec: BackboneSpec) -> None:
    """Refuse a second guidance scale where there is no second expert.

    Raises:
        ConfigurationError: The model has one expert.
    """
    if guidance_scale_2 is not None and spec.experts == 1:
        raise ConfigurationError(
            f"model.guidance_scale_2 is {guidance_scale_2}, but {spec.name} has one expert; leave "
            f"it out, or set model.guidance_scale."
        )


def check_schedule(request: Request, spec: BackboneSpec, scheduler: BlockScheduler) -> None:
    """Refuse a prompt that no block of a finite video would be conditioned on.

    Raises:
        ConfigurationError: Names the prompt's time and the blocks' times around it.
    """
    if request.num_frames is None or len(request.prompts) == 1:
        return
    latent_frames = spec.compression.latent_frames(request.num_frames)
    starts = [
        spec.compression.start_second(block.start, request.fps)
        for block in scheduler.blocks(latent_frames)
    ]
    used = {request.prompt_at(start) for start in starts}
    for prompt in request.prompts:
        if prompt.text not in used:
            raise ConfigurationError(
                f"the prompt at {prompt.at:g} s would never be seen: prompts change where a block "
                f"begins, and this video of {request.num_frames / request.fps:.1f} s has blocks at "
                f"{', '.join(f'{start:.1f}' for start in starts[:8])}"
                f"{', ...' if len(starts) > 8 else ''} s."
            )


def check_memory(
    recipe: Recipe, request: Request, spec: BackboneSpec, branches: int, device: torch.device
) -> None:
    """Refuse a feature cache that would hold more than the device's whole memory.

    Raises:
        ConfigurationError: Names both sizes and what holds less.
    """
    held = cache_bytes(recipe, request, spec, branches)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = psutil.virtual_memory().total
    if held > memory:
        raise ConfigurationError(
            f"the cache {type(recipe.cache).__name__} would hold {held / 2**30:,.1f} GiB of keys "
            f"and values, but {device} has {memory / 2**30:,.1f} GiB; NextBlockKV holds less, and "
            f"so do fewer steps, a larger stride, or fewer context_frames."
        )


def cache_bytes(recipe: Recipe, request: Request, spec: BackboneSpec, branches: int) -> int:
    """Return the bytes of keys and values that a run's feature cache holds at its peak.

    Plays the schedule until the queue is full and a few blocks longer: nothing grows after that.
    """
    latent_frames = None
    if request.num_frames is not None:
        latent_frames = spec.compression.latent_frames(request.num_frames)
    in_flight = recipe.scheduler.blocks_in_flight(latent_frames, recipe.steps)
    first = list(islice(recipe.scheduler.blocks(latent_frames), in_flight + 3))
    tasks = recipe.scheduler.tasks(first[-1].stop, recipe.steps)
    spatial = spec.compression.spatial
    tokens = spec.tokens_per_frame(request.height // spatial, request.width // spatial)
    per_frame = 2 * tokens * spec.model_dim * spec.layers * recipe.torch_dtype.itemsize
    return peak_held_frames(recipe.cache, tasks) * per_frame * branches


def _check_size(name: str, pixels: int, multiple: int) -> None:
    if pixels < multiple or pixels % multiple:
        below = max(multiple, pixels // multiple * multiple)
        raise ConfigurationError(
            f"data.{name} is {pixels}, but it must be a multiple of {multiple} pixels (VAE "
            f"compression times patch); the nearest are {below} and {below + multiple}."
        )
