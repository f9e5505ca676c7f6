"""Everything that can be refused, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longtake.errors import ConfigurationError
from longtake.framework.request import Request
from longtake.models import BackboneSpec, ModelFolder
from longtake.schedulers import BlockScheduler

_WEIGHTED = ("text_encoder", "transformer", "transformer_2", "vae")


def check_weights(folder: ModelFolder) -> None:
    """Refuse a folder whose weights are missing or are pickles.

    Raises:
        ModelError: Names the folder and what is there instead.
    """
    for component in _WEIGHTED:
        if folder.has(component):
            folder.weight_files(component)


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


def check_prompts(requests: Sequence[Request]) -> None:
    """Refuse a run without a prompt.

    Raises:
        ConfigurationError: There is no request, or one has an empty prompt.
    """
    if not requests:
        raise ConfigurationError("data.prompts is empty: give at least one prompt, or a file.")
    for request in requests:
        if any(not prompt.text.strip() for prompt in request.prompts):
            raise ConfigurationError(f"prompt {request.index} in data.prompts is empty.")


def _check_size(name: str, pixels: int, multiple: int) -> None:
    if pixels < multiple or pixels % multiple:
        below = max(multiple, pixels // multiple * multiple)
        raise ConfigurationError(
            f"data.{name} is {pixels}, but it must be a multiple of {multiple} pixels (VAE "
            f"compression times patch); the nearest are {below} and {below + multiple}."
        )
