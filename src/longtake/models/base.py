"""Model contracts: backbone, decoder, encoders, family.

A diffusion transformer as ``condition, embed, layers, head``, and a VAE that decodes a stream of
latent blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.models.conditioning import ConditioningFrames
from longtake.models.layers.groups import TokenGroups
from longtake.models.spec import BackboneSpec
from longtake.task import FrameRange, Frames

TextT = TypeVar("TextT")
"""What a backbone makes of a prompt, once per prompt."""
StepT = TypeVar("StepT")
"""What a backbone makes of a timestep, once per denoising step."""

PromptStates: TypeAlias = dict[str, Tensor]
"""What the text encoders make of some prompts: named tensors with one row per prompt."""

WeightFormat: TypeAlias = Literal["int8", "fp8"]
"""A byte per weight with a scale per output channel: integers, or floating point (e4m3)."""

Rotary: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of all tokens' rotary positions, each ``(1, S + L, 1, D / 2)``, or with ``N``
for 1 where heads differ. A model's own ``Positions`` may give any two tensors that have a row per
token in dim 1, for its layers to make such a table of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The latent frames that pass through the layers together, and their size.

    Args:
        frames: Latent frames, absolute in the video.
        positions: Where they stand along time: absolute, but for windows that begin anew or leave
            frames out.
        height: Latent height ``H``.
        width: Latent width ``W``.
        origin: The first position that the task sees: where text tokens stand in time. Among video
            tokens only differences of positions count, but a model has seen its text at the start
            of a clip only.
    """

    frames: Frames
    positions: Frames
    height: int
    width: int
    origin: int = 0

    @classmethod
    def of(cls, frames: FrameRange, height: int, width: int, origin: int = 0) -> Self:
        """Return a grid of consecutive frames at their absolute positions."""
        return cls(
            frames=frames.each, positions=frames.each, height=height, width=width, origin=origin
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where weights go.

    Args:
        device: The rank's device.
        dtype: Of the weights, save those that the model keeps in fp32.
        quantize: The format of the weights inside a transformer's layers; ``None``: ``dtype``.
        offload: Whether a transformer's layers wait in host memory for their turn.
    """

    device: torch.device
    dtype: torch.dtype
    quantize: WeightFormat | None = None
    offload: bool = False


class Positions(ABC):
    """Gives the rotary table of a window."""

    @abstractmethod
    def table(self, grid: Grid) -> Rotary:
        """Return cosines and sines of the positions, each ``(1, S + L, 1, D / 2)`` fp32."""

    def rotate(self, keys: Tensor, shift: int) -> Tensor:
        """Return kept keys as they would be at other positions along time.

        Exact up to one rounding: always from the keys as they were kept. By default refused.

        Args:
            keys: ``(B, S, N, D)``, rotary positions applied; not changed.
            shift: By how many latent frames they move; negative: towards the video's start.

        Raises:
            ConfigurationError: The positions are not of a kind that can be moved.
        """
        raise ConfigurationError(
            f"{type(self).__name__} cannot move kept keys along time; choose a cache that leaves "
            f"them where they are (moved_sinks: false)."
        )


Operand: TypeAlias = Tensor | Callable[[], Tensor]
"""Queries, keys or values: a tensor, or what makes it when its turn comes."""


class Kernel(Protocol):
    """Attention on one device."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` to ``k`` and ``v``, all ``(B, S, N, D)``; as many keys as you like."""


class Attend(Protocol):
    """Self-attention as a layer sees it.

    Behind it stand sequence exchange, feature cache and kernel choice: the layer knows of none.
    ``S`` counts the window's video tokens and, after them, the text tokens of a model whose text
    is inside self-attention.

    An operand may be a function instead of a tensor. Each is called once, values first, then keys,
    then queries: where devices exchange them, one travels while the next is projected. Worth it
    where queries, keys and values have projections of their own.
    """

    def __call__(self, q: Operand, k: Operand, v: Operand) -> Tensor:
        """Attend from ``q`` to ``k`` and ``v`` (and to whatever features a cache adds).

        Args:
            q: Queries ``(B, S, N, D)``, rotary positions applied.
            k: Keys ``(B, S, N, D)``, rotary positions applied.
            v: Values ``(B, S, N, D)``.

        Returns:
            ``(B, S, N, D)``, in the dtype of ``q``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Generic[TextT, StepT]):
    """What a forward is conditioned on.

    Args:
        text: From ``Backbone.condition_text``, of the task's prompt.
        step: From ``Backbone.condition_step``, of the task's step.
        start: What is known of the video before it is made, if anything.
    """

    text: TextT
    step: StepT
    start: ConditioningFrames | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext(Condition[TextT, StepT]):
    """What every layer of one forward shares.

    Args:
        text: From ``Backbone.condition_text``, of the task's prompt.
        step: From ``Backbone.condition_step``, of the task's step.
        rotary: Table of the positions of all tokens, or ``None`` where they are learned.
        kernel: The attention kernel, for attention that is not self-attention.
        text_tokens: How many of the hidden states' tokens are text; they come last.
        start: What is known of the video before it is made, if anything.
    """

    rotary: Rotary | None
    kernel: Kernel
    text_tokens: int = 0


class Backbone(ABC, Generic[TextT, StepT]):
    """A diffusion transformer seen as ``condition, embed, layers, head``.

    It may hold a part of its layers only (``layers``); ``embed`` needs layer 0's rank and
    ``head`` the last layer's. Guidance branches are rows of the batch dim ``B``. All methods run
    under ``torch.no_grad`` on the device where the weights are. Nothing is changed in place
    (hidden states may be an expanded view) and nothing is remembered between calls.

    Hidden states are ``(B, S + L, M)``: the window's video tokens, frame after frame, then the
    ``L = spec.text_tokens`` text tokens of a model whose text is inside self-attention.
    """

    def __init__(self, spec: BackboneSpec, positions: Positions | None) -> None:
        self.spec = spec
        self.positions = positions

    @abstractmethod
    def condition_text(self, prompts: PromptStates) -> TextT:
        """Do a prompt's work once: projections and cross-attention's keys and values.

        Args:
            prompts: From ``ModelFamily.encode_text``, one row per guidance branch.
        """

    @abstractmethod
    def condition_step(self, timestep: float, guidance: float) -> StepT:
        """Do a denoising step's work once: the timestep's embedding and modulation.

        Args:
            timestep: In units of the training schedule (0 .. ``train_timesteps``).
            guidance: Guidance scale, for a model that embeds it.
        """

    def text_at(self, text: TextT, step: StepT) -> TextT:
        """Do what a prompt's work depends on the step for: once per task, before its layers.

        For a model whose text has layers of its own that are told the timestep.

        Args:
            text: From ``condition_text``.
            step: From ``condition_step``.

        Returns:
            What ``layer`` gets as the text; by default it is the same at every step.
        """
        return text

    @abstractmethod
    def embed(self, latents: Tensor, grid: Grid, condition: Condition[TextT, StepT]) -> Tensor:
        """Turn latents ``(1, C, F, H, W)`` into hidden states ``(B, S + L, M)``.

        Args:
            latents: The window's latents, fp32 or the model's dtype.
            grid: Which frames they are: learned positions depend on it.
            condition: Of the task. Where no text is among the tokens, all branches start alike:
                return one row, ``(1, S, M)``.
        """

    @abstractmethod
    def layer(
        self, index: int, hidden: Tensor, context: LayerContext[TextT, StepT], attend: Attend
    ) -> Tensor:
        """Run one layer on hidden states ``(B, S + L, M)``.

        Args:
            index: Of the layer in the whole model.
            hidden: ``(B, S + L, M)``.
            context: What every layer of this forward shares.
            attend: To be called exactly once, with all tokens, instead of a self-attention kernel.
        """

    @abstractmethod
    def head(self, hidden: Tensor, grid: Grid, condition: Condition[TextT, StepT]) -> Tensor:
        """Turn hidden states ``(B, S, M)`` of whole frames into a prediction ``(B, C, F, H, W)``.

        Each frame on its own: it is called for the block's own frames alone, without text tokens.

        Args:
            hidden: States of the tokens of ``grid.frames`` after the last layer.
            grid: The frames to predict.
            condition: Of the task.
        """

    def at_rate(self, fps: float) -> Self:
        """Return this backbone as it is for videos of a frame rate; by default it is told none.

        Called once per request, before anything of it is computed. For a model that has been
        trained with several rates: return a shallow copy that knows it, with the same weights.

        Args:
            fps: Video frames per second.
        """
        return self

    def join_steps(self, steps: Sequence[StepT], tokens: Sequence[int]) -> StepT:
        """Join noise levels, for a model whose frames may differ in theirs.

        By ``spec.timestep``, or because given frames are at timestep 0 (``spec.start``).

        Called where the video tokens of a forward are at more than one level. Every level's own
        work has been done, once, by ``condition_step``: gather it here, as late as you can.

        Args:
            steps: From ``condition_step``, one per run of consecutive video tokens.
            tokens: How many tokens each run has, at least 1, in all those of the hidden states.

        Returns:
            What ``layer`` and ``head`` get as the step of these tokens.
        """
        raise NotImplementedError(f"{self.spec.name} has one timestep for all frames")

    def text_padding(self, text: TextT) -> tuple[int, ...]:
        """Return how many of the last text tokens are padding, which no query may see.

        Args:
            text: From ``condition_text``.

        Returns:
            One number per branch, or one for all of them; by default nothing is padded.
        """
        return (0,)

    def token_groups(self, index: int) -> TokenGroups | None:
        """Return which tokens attend to one another in a layer whose self-attention is sparse.

        The layer hands all tokens to ``attend`` as ever: they are grouped behind it, when it is
        known which keys the window has. Not for models with text inside self-attention.

        Args:
            index: Of the layer in the whole model.

        Returns:
            The groups; by default ``None``: every token attends to all.
        """
        return None

    def own_kernel(self, index: int, grid: Grid, keys: Frames) -> Kernel | None:
        """Return the kernel of a layer whose queries choose among the keys by themselves.

        It gets all tokens of the window, and those kept keys that the window reads, of some heads.

        Args:
            index: Of the layer in the whole model.
            grid: Of the window.
            keys: Positions along time of all frames that have keys, in the order of the keys.

        Returns:
            By default ``None``: the kernel of the run.
        """
        return None


AnyBackbone: TypeAlias = Backbone[Any, Any]
"""A backbone, where its private condition types do not matter."""

DecoderState = TypeVar("DecoderState")
"""What a decoder carries from one latent frame to the next."""


class VideoDecoder(ABC, Generic[DecoderState]):
    """Latent blocks in, video frames out, as a stream.

    Where a video is cut into blocks cannot be seen in it; the state's size does not grow with the
    length. It may run in another thread than the backbone, at the same time: the two share nothing
    that changes.
    """

    @abstractmethod
    def start(self) -> DecoderState:
        """Return the state before the first latent frame of a video."""

    def start_of(self, latent_frames: int | None) -> DecoderState:
        """Return the state before the first latent frame of a video whose length may be known.

        By default as ``start``. For decoders whose pipeline decodes videos of some lengths unlike
        those of others.

        Args:
            latent_frames: Of the whole video; ``None`` for an endless one.
        """
        return self.start()

    @abstractmethod
    def decode(self, state: DecoderState, latents: Tensor) -> Iterator[Tensor]:
        """Decode the next latent frames of the video. Exhaust the iterator: it moves the state.

        Args:
            state: From ``start``, changed by every call; one per video.
            latents: ``(1, C, F, H, W)`` as the sampler leaves them, any block length.

        Yields:
            Video frames ``(frames, 3, height, width)`` in ``[-1, 1]``, as soon as they are made. A
            decoder that needs later latents for a frame holds it back until they come.
        """

    def finish(self, state: DecoderState) -> Iterator[Tensor]:
        """Decode what is held back: the video has ended. By default nothing is.

        Args:
            state: Not to be used again.

        Yields:
            Video frames, as ``decode`` does.
        """
        yield from ()

    def in_tiles(self, tiled: Callable[[AnyDecoder], AnyDecoder]) -> AnyDecoder:
        """Return what decodes pictures in tiles; by default this decoder decodes each of them.

        For decoders that look at latents of whole pictures before they decode them.

        Args:
            tiled: Returns a decoder of whole pictures, given one of tiles.
        """
        return tiled(self)


AnyDecoder: TypeAlias = VideoDecoder[Any]
"""A decoder, where its private state does not matter."""
