"""Model of a run, resolved: its folder, family and settings, before any weight is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import final

from longtake.errors import ConfigurationError, ModelError
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.preflight import (
    TRANSFORMERS,
    check_guidance,
    check_lora_values,
    check_modules,
)
from longtake.framework.engine.settings import settled
from longtake.guidance import (
    ClassifierFreeGuidance,
    EmbeddedGuidance,
    Guidance,
    GuidanceChoice,
    GuidanceSettings,
)
from longtake.models import (
    BackboneSpec,
    Defaults,
    ModelFamily,
    ModelFolder,
    Placement,
    Sampler,
    applied_shift,
    family_of,
    load_sampler,
    open_folder,
    sampler_name,
)
from longtake.models.blank import BlankModel
from longtake.models.counting import WeightCount, count_weights
from longtake.models.layer_check import check_layers
from longtake.models.layers.kernel import chosen_kernel
from longtake.models.loading.checksums import checksums
from longtake.models.loading.guard import reading
from longtake.models.loading.lora import Lora
from longtake.models.loading.tokenizers import check_text
from longtake.models.samplers.shift import shift_of
from longtake.reuse import LayerReuse


@final
class ResolvedModel:
    """What a generation config names: found, checked, and with none of its numbers open.

    Creating it reads configuration files, LoRAs, and the headers of weights that are here. Nothing
    in it depends on a request or on where things run.

    Args:
        generation_config: How videos are made.
        place: A rank's device, and the dtype of the weights.
        open_: Finds the pipeline; ``open_for_plan`` where nothing will be run.

    Attributes:
        generation_config: As given.
        place: As given.
        folder: The pipeline folder.
        family: Knows the folder.
        spec: Of the transformer.
        card: Of the model, as ``longtake models`` lists it.
        defaults: The model's own settings.
        settings: Those in force: the user's, and the model's own where the user gave none.
        guidance: Branches and scales.
        attention: The kernel of all attention.
        reuse: When layers are reused; ``None``: never.
        blank: Its modules on the meta device.
        skipped: What of LoRAs is skipped, in sentences.
        merged: How many keys of a LoRA change a transformer.
        weights_checked: Whether the weights are here and are those of the model.

    Raises:
        LongtakeError: The generation config cannot work.
    """

    def __init__(
        self,
        generation_config: GenerationConfig,
        place: Placement,
        open_: Callable[..., ModelFolder] = open_folder,
    ) -> None:
        self.generation_config = generation_config
        self.place = place
        self.folder = open_(
            generation_config.pipeline,
            generation_config.loras,
            variant=generation_config.variant,
            revision=generation_config.revision,
            weights=generation_config.weights,
            weights_2=generation_config.weights_2,
        )
        self._weights: WeightCount | None = None
        self.merged: dict[tuple[Lora, str], int] = {}
        self._checksums: Mapping[str, str] | None = None
        with reading(f"the model in {self.folder.path}"):
            self._resolve(generation_config)

    def _resolve(self, generation_config: GenerationConfig) -> None:
        """Read and check what stands in the folder's configuration files and headers."""
        self.family = generation_config.family or family_of(self.folder)
        spec = self.family.spec(self.folder)
        per_frame = generation_config.timesteps_per == "frame"
        self.spec = spec.with_frame_levels() if per_frame else spec
        self.card = self.family.card(self.folder)
        self.defaults = self.family.defaults(self.folder)
        check_guidance(generation_config.guidance_scale_2, self.spec)
        self.settings = settled(generation_config, self.defaults, self.spec.experts)
        self.guidance = _guidance(generation_config.guidance, self.settings, self.spec)
        self.reuse = _reuse(generation_config)
        self.attention = chosen_kernel(generation_config.attention)
        self.sampler()  # or a refusal
        if self.folder.structure is None:
            check_text(self.folder)
        check_lora_values(self.folder)
        self.weights_checked = self.folder.is_whole
        self.blank, self.skipped = self._check_modules()
        if not _is_own(self.family):  # the suites have tried ours
            check_layers(self.blank)

    def _check_modules(self) -> tuple[BlankModel, list[str]]:
        """Build the modules, refuse what is not for them, and return what of LoRAs is skipped."""
        skipped: list[str] = []
        folder = replace(self.folder, report=skipped.append, merged=self._note_merged)
        blank = BlankModel(self.family, folder, self.spec, self.place.dtype)
        check_modules(blank, weights=self.weights_checked)
        return blank, list(dict.fromkeys(skipped))

    def _note_merged(self, lora: Lora, component: str, keys: int) -> None:
        self.merged[lora, component] = keys

    def check_weights(self) -> None:
        """Refuse weights that are missing or not those of the model. Idempotent.

        Raises:
            ModelError: Names the file or folder, the tensor, and what is there instead.
        """
        if not self.weights_checked:
            self.weights_checked = True
            self.blank, _ = self._check_modules()

    def count_weights(self) -> WeightCount | None:
        """Count the transformers' weights; ``None`` where a plug-in's are not on this machine."""
        if self._weights is None:  # read from every file's header, or built: once
            transformers = [name for name in TRANSFORMERS if self.folder.has(name)]
            with suppress(ModelError):
                self._weights = count_weights(
                    self.folder, transformers, self.spec.layers, self.family.layer_lists
                )
        return self._weights

    def checksums(self) -> Mapping[str, str]:
        """Return a checksum of each of the model's files that is here; they are read once."""
        if self._checksums is None:
            self._checksums = checksums(self.folder)
        return self._checksums

    def sampler(self, tokens: int | None = None) -> Sampler:
        """Return the noise levels.

        Args:
            tokens: Video tokens that a model shifts its levels by, if it does.
        """
        config, settings = self.generation_config, self.settings
        return load_sampler(
            self.folder,
            config.sampler,
            settings.flow_shift,
            settings.steps,
            tokens,
            self.family,
            config.timesteps,
        )

    def sampler_name(self, sampler: Sampler) -> str:
        """Return the name of a sampler of this model."""
        return sampler_name(self.folder, self.generation_config.sampler, sampler)

    def flow_shift(self, tokens: int | None) -> float | None:
        """Return by how much noise levels are shifted; ``None``: no such thing."""
        asked = self.generation_config.sampler
        return applied_shift(self.folder, asked, self.settings.flow_shift, tokens)

    @property
    def fixed_flow_shift(self) -> float | None:
        """By how much all noise levels are shifted; ``None``: not, or by each clip's size."""
        by_size = shift_of(self.folder.config("scheduler"), None) is not None
        if self.settings.flow_shift is None and by_size:
            return None
        return self.flow_shift(None)


def _is_own(family: ModelFamily) -> bool:
    return type(family).__module__.split(".")[0] == "longtake"


def _reuse(generation_config: GenerationConfig) -> LayerReuse | None:
    if generation_config.reuse is None:
        return None
    made = generation_config.reuse()
    if not isinstance(made, LayerReuse):
        raise ConfigurationError(
            f"model.reuse makes a {type(made).__name__}, which is no rule of reuse: give the "
            f"class_path of a subclass of longtake.reuse.LayerReuse."
        )
    if generation_config.offload == "layers":
        raise ConfigurationError(
            "model.reuse is chosen with offload: layers, which brings each layer in its turn; "
            "leave one of them out."
        )
    return made


def _guidance(choice: GuidanceChoice, settings: Defaults, spec: BackboneSpec) -> Guidance:
    first, second = settings.guidance_scale, settings.guidance_scale_2
    embeds = spec.guidance == "embedded"
    scales = (first,) if spec.experts == 1 else (first, first if second is None else second)
    chosen = GuidanceSettings(scales=scales, layers=spec.layers, embeds=embeds)
    if choice is None:  # a model that is told the scale has no second branch
        return EmbeddedGuidance(chosen) if embeds else ClassifierFreeGuidance(chosen)
    made = choice(chosen)
    if not isinstance(made, Guidance):
        raise ConfigurationError(
            f"model.guidance makes a {type(made).__name__}, which is no guidance: give the "
            f"class_path of a subclass of longtake.guidance.Guidance."
        )
    return made
