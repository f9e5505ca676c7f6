"""Options of the model, as data: ``model.*`` of the YAML."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Literal

import torch

from longtake.caches import FeatureCache, KeptFormat, NextBlockKV
from longtake.errors import ConfigurationError
from longtake.guidance import GuidanceChoice
from longtake.models import Lora, ModelFamily, Placement, SamplerChoice, WeightFormat
from longtake.models.layers.kernel import AttentionOption
from longtake.models.samplers.timesteps import check_timesteps
from longtake.noise import NoiseInit, SharedPool
from longtake.reuse import ReuseChoice
from longtake.schedulers import BlockScheduler, FifoQueue

Dtype = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "text_encoder", "layers"]
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Which weights are held in one byte each, and how.

    Args:
        transformer: Of the transformer's layers; left out: ``model.dtype``.
        text_encoder: Of the text encoders; left out: ``model.dtype``.
    """

    transformer: WeightFormat | None = None
    text_encoder: WeightFormat | None = None


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Options ``model.*``: how videos are made.

    Each is written here alone: ``VideoModule`` takes these fields, and ``--help`` these texts.

    Args:
        pipeline: The model: a diffusers folder, a hub id, or ``demo`` (bundled; its sizes are in
            ``configs/demo.yaml``).
        weights: A safetensors file that the transformer is read from, in place of the pipeline's
            own, or a diffusers folder of or with one: in diffusers' names or in those of the
            model's own code, as most are published; float8 too (docs/weights.md). Left out: the
            pipeline's own.
        weights_2: The same, of the second expert of Wan 2.2 (low noise).
        variant: Which weight files are read where a folder has several kinds: ``fp16`` for
            ``*.fp16.safetensors``, ``bf16``; left out: the plain ones.
        revision: Branch, tag or commit of a hub id; left out: the newest commit. A run's
            ``config.yaml`` holds the commit that it used, so that it can be run again.
        family: A model family of your own, ``{class_path: my_package.MyFamily}``; left out: the one
            that is registered for the pipeline (``longtake models``).
        scheduler: What is denoised, in which order. ``FifoQueue`` for long and endless videos,
            ``FullSequence`` for clips up to the model's native length.
        noise: The starting noise of every block.
        cache: How a block sees its neighbors: which keys and values outlive a task.
        steps: Denoising steps of each block; left out: the model's own number (``longtake
            models``).
        timesteps: Timesteps of the steps as few-step models publish them, such as
            ``[1000, 750, 500, 250]``: before the shift, which is applied once (a shift of 5 makes
            1000, 937.5, 833.3, 625 of these; ``flow_shift: 1`` takes a list as it is). In place of
            ``steps``. For flow models, with ``FlowMatchEulerDiscreteScheduler`` or
            ``UniPCMultistepScheduler``, which tells the model whole numbers.
        guidance_scale: Scale of classifier-free guidance; 1 or less turns it off (for all experts).
            A model with embedded guidance is told the scale instead. Left out: the model's own.
        guidance_scale_2: Of the second expert of Wan 2.2; left out: as ``guidance_scale`` if that
            is given, else the model's own.
        guidance: How forwards beside the prompt's steer the video (docs/guidance.md):
            ``ClassifierFreeGuidance``, ``AdaptiveProjectedGuidance``,
            ``PerturbedAttentionGuidance``, ``SkipLayerGuidance``, ``EmbeddedGuidance``,
            ``GuidanceByExpert``, ``NoGuidance``, or one of your own. Left out: what the model was
            made for, classifier-free or embedded.
        sampler: A diffusers scheduler class, such as ``UniPCMultistepScheduler``,
            ``FlowMatchEulerDiscreteScheduler`` or ``DPMSolverMultistepScheduler``, also with
            options, ``{scheduler: FlowMatchEulerDiscreteScheduler, options: {stochastic_sampling:
            true}}``; or a sampler of your own, ``{class_path: my_package.MySampler}``. Left out:
            the scheduler that the model ships.
        flow_shift: Shift of the noise levels (Wan: 3 at 480p, 5 at 720p); left out: the model's
            own, by the clip's size where that is how it was trained (LTX-Video).
        prompt_template: What every prompt is put into, at ``{}``: ``"high quality, {}"``, say. The
            negative prompt stays as it is. Left out: the model's own, which for most is ``"{}"``,
            the prompt as it is.
        dtype: Of the transformer's and the text encoder's weights. Norms and time
            embedding stay in float32, as the model class declares.
        quantize: ``int8`` or ``fp8`` holds the weights of the transformer's layers and of the text
            encoders in one byte each (with torchao); or of one of them,
            ``{transformer: fp8, text_encoder: int8}``. Left out: ``dtype``.
        offload: What waits in host memory. ``text_encoder``: prompts are encoded on the CPU;
            ``layers``: that too, and the transformer's layers come to the device one ahead of
            their turn; ``none``: all weights are on the device.
        vae_dtype: Of the decoder's weights.
        cache_format: How keys and values are kept: in the model's dtype, or in one byte per number,
            ``fp8`` or ``int8``.
        attention: diffusers' attention backend: ``native``, ``flash``, ``sage``, ...; or a kernel
            of your own, ``{class_path: my_package.MyKernel}`` (docs/attention.md).
        reuse: Saves layers: runs the first one, and where that says much the same as before, adds
            what the others added then (docs/layer-reuse.md): ``FirstBlockCache``,
            ``AccumulatedChange``, or one of your own. Another video, so off by default.
        vae_tile: Decodes pictures in square tiles of so many pixels, which overlap by a quarter;
            several decode devices share a video's tiles. Left out: whole pictures.
        start_noise: Where given frames (``data.start``, ``end``, ``keyframes``) are held in their
            place and all frames have one timestep: how much of a block's noise they are
            seen with while the others are made. 1 is what such a model was
            trained with, but the video may jump after them; with less it follows them more
            closely; 0 shows them clean.
        timesteps_per: ``frame`` tells the model every latent frame's own noise level, though it was
            trained with one for all frames, where the architecture can take it (Wan): for
            schedulers whose windows hold several levels, such as ``FrameQueue``. ``model``: as the
            model was trained.
        lora: A LoRA to merge into the transformer's weights: a folder as diffusers or peft saves
            it, or a safetensors file of any trainer (docs/lora.md). Or several: a list, or the
            option repeated. Each may be ``{path: ..., scale: 1.0}``; for Wan 2.2 with
            ``component: transformer_2`` (or ``all``) and ``scale_2`` for the second expert; with
            ``missing: skip`` where the model lacks modules that the LoRA changes.

    Raises:
        ConfigurationError: ``start_noise`` is not between 0 and 1, ``prompt_template`` has no one
            place for the prompt, or ``timesteps`` do not run down from noise or are not as many as
            ``steps``.
    """

    pipeline: str
    _: KW_ONLY
    weights: str | None = None
    weights_2: str | None = None
    variant: str | None = None
    revision: str | None = None
    family: ModelFamily | None = None
    scheduler: BlockScheduler = field(default_factory=FifoQueue)
    noise: NoiseInit = field(default_factory=SharedPool)
    cache: FeatureCache = field(default_factory=NextBlockKV)
    steps: int | None = None
    timesteps: list[float] | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    guidance: GuidanceChoice = None
    sampler: SamplerChoice = None
    flow_shift: float | None = None
    prompt_template: str | None = None
    dtype: Dtype = "bfloat16"
    quantize: Quantization | WeightFormat | None = None
    offload: Offload = "none"
    vae_dtype: Dtype = "float32"
    cache_format: KeptFormat = "model"
    attention: AttentionOption = "native"
    reuse: ReuseChoice = None
    vae_tile: int | None = None
    start_noise: float = 0.5
    timesteps_per: Literal["model", "frame"] = "model"
    lora: list[Lora | str] | Lora | str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_noise <= 1.0:
            raise ConfigurationError(
                f"model.start_noise is {self.start_noise:g}, but it is a share: choose 0 to 1."
            )
        template = self.prompt_template
        if template is not None and template.count("{}") != 1:
            raise ConfigurationError(
                f"model.prompt_template is {template!r}, which has {template.count('{}')} places "
                f"for the prompt; it needs one {{}}, as in 'high quality, {{}}'."
            )
        if self.timesteps is not None:
            check_timesteps(self.timesteps, self.steps)

    def steps_or(self, default: int) -> int:
        """Return the number of denoising steps, or ``default`` where nothing says it."""
        if self.timesteps is not None:
            return len(self.timesteps)
        return default if self.steps is None else self.steps

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the weights."""
        return _DTYPES[self.dtype]

    @property
    def torch_vae_dtype(self) -> torch.dtype:
        """The torch dtype of the decoder's weights."""
        return _DTYPES[self.vae_dtype]

    @property
    def quantization(self) -> Quantization:
        """``quantize``, in whichever form it is given."""
        match self.quantize:
            case Quantization() as each:
                return each
            case both:
                return Quantization(transformer=both, text_encoder=both)

    def text_place(self, place: Placement) -> Placement:
        """Return where prompts are encoded: on the CPU where anything is offloaded."""
        device = place.device if self.offload == "none" else torch.device("cpu")
        return Placement(device, place.dtype, quantize=self.quantization.text_encoder)

    @property
    def loras(self) -> tuple[Lora, ...]:
        """``lora``, however many are given and in whichever form."""
        given = self.lora
        each = given if isinstance(given, list) else [] if given is None else [given]
        return tuple(Lora(path=one) if isinstance(one, str) else one for one in each)
