"""Preflight checks: everything that can be refused, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Final

from longtake.caches import settled_held_frames
from longtake.errors import ConfigurationError, LongtakeError, ModelError
from longtake.framework.engine.request import Request
from longtake.models import AttentionKernel, BackboneSpec, ModelFolder
from longtake.models.blank import BlankModel
from longtake.models.counting import WeightCount
from longtake.models.layers.kernel import AttentionChoice
from longtake.models.loading.encoders import check_encoder
from longtake.models.loading.headers import read_headers
from longtake.models.loading.lora import LoraFile
from longtake.plan.cost.memory import frame_bytes
from longtake.plan.layout import Layout
from longtake.plan.walk import walk_of
from longtake.plan.workload import Workload
from longtake.reuse import LayerReuse
from longtake.schedulers import BlockScheduler

TRANSFORMERS = ("transformer", "transformer_2")
"""Components whose layers are divided among ranks."""
_LARGEST_SIDE: Final = 2**16
"""Pixels; no format of video holds more."""
_FASTEST: Final = 1_000
"""Video frames per second; time stamps of files are hardly finer."""
_ENCODERS = ("text_encoder", "image_encoder")
"""How the names of components from transformers begin (``text_encoder_2``)."""
QUIET_BLOCKS: Final = 4
"""Blocks that come out one after another without more being held: it has settled."""
ENDLESS_BLOCKS: Final = 128
"""Blocks of an endless video that are played at most."""


@contextmanager
def naming(request: Request) -> Iterator[None]:
    """Begin refusals of a request with where it was asked for."""
    try:
        yield
    except ConfigurationError as error:
        if not request.origin:
            raise
        raise ConfigurationError(f"{request.origin}: {error}") from error


def check_lora_values(folder: ModelFolder) -> None:
    """Refuse LoRAs with values that are no numbers. Reads them whole.

    Raises:
        ModelError: Names the key and the file.
    """
    for lora in folder.loras:
        LoraFile(lora).check_values()


def check_modules(blank: BlankModel, *, weights: bool) -> None:
    """Refuse LoRAs and weights that are not for the model: the modules are built once for both.

    Reads headers, no tensors: every name and shape is compared with the modules that they are
    for, built on the meta device.

    Args:
        blank: The model; its folder's ``report`` is told what of the LoRAs is skipped.
        weights: Whether the weights are to be here: any that is missing is refused. Otherwise the
            LoRAs alone are checked.

    Raises:
        ModelError: Names the file or folder, the key, the shapes, and what is there instead. Of
            weights: they are missing, pickles, broken, quantized, or not those of the model.
    """
    if weights:
        _check_headers(blank.folder)
    loads: list[Callable[[], object]] = []
    if weights or blank.folder.loras:
        loads.append(lambda: blank.backbone)
    if weights:
        loads.append(lambda: blank.decoder)
    for load in loads:
        try:
            load()
        except LongtakeError:
            raise
        except Exception:  # a plug-in's code may fail on the meta device in any way
            continue


def _check_headers(folder: ModelFolder) -> None:
    for component in folder.components:
        if component.startswith("tokenizer") and not (folder.path / component).is_dir():
            raise ModelError(f"{folder.path} has no {component} folder.")
    for component in folder.weighted:
        if component.startswith(_ENCODERS):
            check_encoder(folder, component)
        else:
            read_headers(folder, component)


def check_request(request: Request, spec: BackboneSpec, scheduler: BlockScheduler) -> None:
    """Refuse a request that the model cannot serve.

    Raises:
        ConfigurationError: Names the number that was asked for and the nearest valid ones.
    """
    _check_size("height", request.height, spec.compression.spatial * spec.patch[1] * spec.square)
    _check_size("width", request.width, spec.compression.spatial * spec.patch[2] * spec.square)
    if request.fps < 1:
        raise ConfigurationError(f"data.fps is {request.fps}, but a video has at least 1.")
    if request.fps > _FASTEST:
        raise ConfigurationError(f"data.fps is {request.fps}, but a video has at most {_FASTEST}.")
    if request.num_frames is not None:
        try:
            latent_frames = spec.compression.latent_frames(request.num_frames)
        except ValueError as error:
            raise ConfigurationError(f"data.{error}") from error
    else:
        latent_frames = None
    learned = spec.learned_frames
    if learned is not None and (latent_frames is None or latent_frames > learned):
        raise ConfigurationError(
            f"data.num_frames is {request.num_frames or 'null, endless'}, but {spec.name} has "
            f"learned positions for {learned} latent frames and none beyond; the most is "
            f"{spec.compression.video_frames(learned)}."
        )
    # Asks the scheduler for its first block: it refuses what it cannot cut.
    next(iter(scheduler.blocks(latent_frames)))


def check_merges(choice: AttentionChoice, layout: Layout) -> None:
    """Refuse a ring of devices for a kernel whose partial results cannot be merged.

    Raises:
        ConfigurationError: Says what to choose instead.
    """
    if layout.mesh.ring > 1 and isinstance(choice, AttentionKernel) and not choice.merges:
        raise ConfigurationError(
            f"model.attention is {type(choice).__name__}, which gives no log-sum-exp, so a ring of "
            f"{layout.mesh.ring} devices cannot merge what each makes of its keys; set ring: 1 and "
            f"share heads instead (ulysses), or write the kernel's with_lse."
        )


def check_reuse(reuse: LayerReuse | None, layout: Layout) -> None:
    """Refuse layers that are reused where somebody waits for what they make.

    Raises:
        ConfigurationError: Says what to choose instead.
    """
    if reuse is not None and layout.aco:
        raise ConfigurationError(
            f"model.reuse is {type(reuse).__name__}, but with aco other devices attend heads of "
            f"every layer; set aco: false, or leave model.reuse out."
        )


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
    seconds = float(request.num_frames / request.fps)
    for prompt in request.prompts:
        if prompt.text not in used:
            raise ConfigurationError(
                f"the prompt at {prompt.at:g} s would never be seen: prompts change where a block "
                f"begins, and this video of {seconds:.1f} s has blocks at "
                f"{', '.join(f'{start:.1f}' for start in starts[:8])}"
                f"{', ...' if len(starts) > 8 else ''} s."
            )


def weight_bytes(workload: Workload, layout: Layout, rank: int, weights: WeightCount | None) -> int:
    """Return the bytes of a rank's transformer weights, or 0 where they are not known yet.

    Norms and embeddings that stay in fp32 count as the rest does, and what is outside the layers
    counts on every rank: both are small.
    """
    if weights is None:
        return 0
    own = sum(weights.layers[layer] for layer in layout.layers(rank))
    return (own + weights.rest) * workload.item_bytes


def cache_bytes(workload: Workload, layout: Layout, rank: int) -> int:
    """Return the bytes of keys and values that a rank's feature cache holds at its peak."""
    return held_frames(workload) * frame_bytes(workload, layout, rank)


def held_frames(workload: Workload) -> int:
    """Return the latent frames whose keys and values the feature cache holds at its peak.

    Plays the schedule until some blocks have come out without more being held: a queue is full
    when its first block comes out, and what rolls grows with each one until it is full. Of an
    endless video whose cache grows without end, what it holds after 128 blocks.
    """
    if workload.latent_frames is None:
        last = next(islice(workload.scheduler.blocks(None), ENDLESS_BLOCKS, None))
        workload = replace(workload, latent_frames=last.start)
    after = workload.prompt_changes[-1] if workload.prompt_changes else 0
    return settled_held_frames(walk_of(workload), QUIET_BLOCKS, after)


def _check_size(name: str, pixels: int, multiple: int) -> None:
    if pixels < multiple or pixels % multiple:
        below = max(multiple, pixels // multiple * multiple)
        raise ConfigurationError(
            f"data.{name} is {pixels}, but it must be a multiple of {multiple} pixels (VAE "
            f"compression times patch); the nearest are {below} and {below + multiple}."
        )
    if pixels > _LARGEST_SIDE:
        raise ConfigurationError(
            f"data.{name} is {pixels}, but a picture has at most {_LARGEST_SIDE:,} pixels a side."
        )
