"""Registry of model families: which there are, and what each must be able to do."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from longtake.errors import ModelError
from longtake.models.base import AnyBackbone, AnyDecoder, Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.loading.config import prompt_shape
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.lora import NameTable
from longtake.models.similar import instead_of
from longtake.models.spec import BackboneSpec
from longtake.models.trust import plugins_allowed
from longtake.models.video_frames import VideoEncoder, VideoFrames
from longtake.plugins import plug_ins


class ModelFamily(ABC):
    """Knows the folders of one diffusers pipeline class. Stateless.

    Attributes:
        cards: What ``longtake models`` says of it, one per kind of folder.
        layer_lists: Names of the transformer's lists of layers, in the order in which layers are
            counted through; left out: any list that is as long as the model has layers.
        lora_names: Original names of the transformer's modules, which LoRA files, and files of
            the transformer (``model.weights``), may have besides diffusers' names.
        transformer_class: diffusers' class of the transformer, of which it is known what a file in
            original names should hold; left out: such files are not understood.
        video_encoder: The VAE's, where it is loaded and used like all others; left out:
            ``encode_video`` says how.
    """

    cards: ClassVar[Sequence[ModelCard]] = ()
    layer_lists: ClassVar[Sequence[str]] = ()
    lora_names: ClassVar[NameTable] = ()
    transformer_class: ClassVar[type[Any] | None] = None
    video_encoder: ClassVar[type[VideoEncoder] | None] = None

    @abstractmethod
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        """Read the backbone's spec from the configuration files alone."""

    @abstractmethod
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> AnyBackbone:
        """Load the backbone with only ``layers`` of it; the rest is not read from disk.

        Patch embedding and head are loaded with the first and the last layer.
        """

    @abstractmethod
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> AnyDecoder:
        """Load the VAE's decoder.

        Args:
            folder: The pipeline folder.
            device: Where it decodes.
            dtype: Of its weights, and so of what it computes. Runs use ``model.vae_dtype``; in
                float64 it is seen whether two ways to decode differ in more than their rounding.
        """

    @abstractmethod
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        """Load the text encoders, encode the prompts and free them.

        Returns:
            For ``Backbone.condition_text``, one row per prompt, on the CPU. The framework chooses
            and joins rows, and casts floating-point tensors to the weights' dtype.
        """

    def encode_text_with_pictures(
        self,
        folder: ModelFolder,
        prompts: Sequence[str],
        pictures: Sequence[Tensor | None],
        place: Placement,
    ) -> PromptStates:
        """Encode prompts as ``encode_text``, each beside the picture that its video starts from.

        For families whose ``spec.reads_picture``; by default pictures are not looked at.

        Args:
            folder: The pipeline folder.
            prompts: Any number of them.
            pictures: One per prompt, ``(h, w, 3)`` uint8 RGB, neither cropped nor resized;
                ``None`` beside the negative prompt.
            place: Where to encode, and the dtype of the encoders' weights.

        Returns:
            As ``encode_text``.
        """
        return self.encode_text(folder, prompts, place)

    def encode_video(
        self, folder: ModelFolder, frames: VideoFrames, device: torch.device
    ) -> Tensor:
        """Load the VAE's encoder, encode video frames and free it: ``video_encoder``'s, by default.

        For families whose ``spec.start`` is not ``refused``.

        Args:
            folder: The pipeline folder.
            frames: As many as some latent frames decode to; to be taken front to back.
            device: Where to encode.

        Returns:
            Latents ``(1, C, F', H, W)`` fp32 on the CPU, as a sampler leaves finished frames.

        Raises:
            ModelError: The family cannot.
        """
        if self.video_encoder is None:
            raise ModelError(f"longtake cannot encode frames for a {folder.pipeline}.")
        return self.video_encoder.load(folder, device).encode(frames)

    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        """Encode the first frames of a video, and what else a model is told of in input channels.

        By default the first frames' latents alone. A family whose ``spec.start`` is ``channels``
        overrides it; and where its ``spec.native`` has ``end`` or ``keyframes``, gives their
        channels as ``ConditioningFrames.channels_at``.

        Args:
            folder: The pipeline folder.
            spec: Of the backbone.
            given: First frames, and of later ones those of the kinds in ``spec.native``.
            place: Where to encode.

        Returns:
            On the CPU.
        """
        return ConditioningFrames(latents=self.encode_video(folder, given.start, place.device))

    def encode_still(
        self, folder: ModelFolder, spec: BackboneSpec, picture: Tensor, frame: int, place: Placement
    ) -> dict[int, Tensor]:
        """Encode a picture that a video is to show at a latent frame.

        A latent frame is several video frames (but the first), which a causal VAE decodes by what
        was before them. So the picture is encoded as a video that stands still, and two latent
        frames of it are given: with its own alone, what it decodes to would be half of the frame
        before.

        Args:
            folder: The pipeline folder.
            spec: Of the backbone.
            picture: ``(height, width, 3)`` uint8 RGB.
            frame: Latent frame, absolute in the video.
            place: Where to encode.

        Returns:
            Latents ``(1, C, 1, H, W)`` fp32 on the CPU: of the frame, and of the one before it if
            there is one.
        """
        before = min(frame, 2)
        still = picture.expand(spec.compression.video_frames(before + 1), *picture.shape)
        latents = self.encode_video(folder, still, place.device)
        return {
            frame - back: latents[:, :, before - back : before - back + 1].contiguous()
            for back in range(min(frame, 1), -1, -1)
        }

    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        """Return states of one prompt that have the right shapes, for counting operations.

        By default ``states`` alone, as long and as wide as the text encoder's configuration says.
        Values do not matter; masks need be no others than such that no token is padded.
        """
        return {"states": torch.empty(1, *prompt_shape(folder))}

    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        """Return a start of the right shapes, for counting the operations of a model that has one.

        By default ``None``: it can do without.

        Args:
            folder: The pipeline folder.
            spec: Of the backbone.
            height: Latent height ``H``.
            width: Latent width ``W``.
        """
        return None

    def module(self, component: str, config: Mapping[str, Any]) -> nn.Module | None:
        """Build a component whose class is neither diffusers' nor transformers', to be counted.

        By default ``None``: it is counted where its files are.

        Args:
            component: Of the pipeline.
            config: Its configuration.
        """
        return None

    def card(self, folder: ModelFolder) -> ModelCard:
        """Return the card of a folder: by default the first one of its pipeline class.

        Where a pipeline class has several cards, the one that lists the folder's hub id.
        """
        own = [card for card in self.cards if card.pipeline == folder.pipeline]
        named = [card for card in own if folder.hub_id in card.examples]
        return next(iter((*named, *own)), ModelCard(pipeline=folder.pipeline))

    def defaults(self, folder: ModelFolder) -> Defaults:
        """Return what a folder is run with where the user says nothing: by default its card's.

        Override it to read what the folder's configuration files say.
        """
        return self.card(folder).defaults

    def sigmas(self, steps: int) -> list[float] | None:
        """Return the noise levels, before the shift, that the pipeline gives its scheduler.

        By default ``None``: it leaves them to the scheduler.
        """
        return None


FamilyT = TypeVar("FamilyT", bound=type[ModelFamily])
_FAMILIES: dict[str, type[ModelFamily]] = {}


def register(*pipelines: str) -> Callable[[FamilyT], FamilyT]:
    """Register a family under the names of its diffusers pipeline classes.

    Use it as a decorator: ``@register("WanPipeline")``. The names are those that
    ``model_index.json`` gives as ``_class_name``.
    """

    def decorate(family: FamilyT) -> FamilyT:
        _FAMILIES.update(dict.fromkeys(pipelines, family))
        return family

    return decorate


def registered() -> dict[str, type[ModelFamily]]:
    """Return every registered family by pipeline class, those of allowed plug-ins included."""
    if plugins_allowed(os.environ):
        _load_plug_ins()
    return dict(_FAMILIES)


def family_of(folder: ModelFolder) -> ModelFamily:
    """Return the family of a pipeline folder.

    Raises:
        ModelError: Its pipeline class is not registered; says what to run instead.
    """
    families = registered()
    if folder.pipeline not in families:
        cards = [card for family in dict.fromkeys(families.values()) for card in family.cards]
        known = {card.pipeline for card in cards}
        cards += [ModelCard(pipeline=name) for name in families if name not in known]
        raise ModelError(
            f"{folder.path} is a {folder.pipeline}, which is not registered; "
            f"{instead_of(folder.pipeline, cards)} docs/new-backbone.md shows how to add one in "
            f"about a hundred lines."
        )
    return families[folder.pipeline]()


@cache
def _load_plug_ins() -> None:
    plug_ins("models")  # importing their modules registers their families
