"""Prompts as the text encoders see them: encoded on one rank, kept for all requests of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeAlias, final

from torch import Tensor

from longtake.framework.engine.conditioning import kept_frames
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.frame_rate import FrameRate
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.models import AnyBackbone, ConditioningFrames, PromptStates
from longtake.models.loading.guard import reading
from longtake.models.text import (
    join_prompts,
    move_prompts,
    pack_prompts,
    split_prompts,
    unpack_prompts,
)
from longtake.strategies import Communicator

_Picture: TypeAlias = tuple[str, FrameRate, int]
"""A file that a video starts from, its frames per second, and how many of the last are kept."""


@final
class EncodedPrompts:
    """What the text encoders made of the prompts of a run.

    Args:
        model: Makes the videos.
    """

    def __init__(self, model: ResolvedModel) -> None:
        self._model = model
        self._states: dict[tuple[str, _Picture | None], PromptStates] = {}

    def encode(self, requests: Sequence[Request], communicator: Communicator, rank: int) -> None:
        """Encode the prompts that are not known yet, on one rank, for all. Collective."""
        needed = [key for request in requests for key in self._seen(request)]
        if any(branch.negative for branch in self._model.guidance.branches):
            needed += [(request.negative_prompt, None) for request in requests]
        missing = [key for key in dict.fromkeys(needed) if key not in self._states]
        if missing:
            packed = None
            if communicator.rank == rank:
                # Text encoders are as large as a transformer: read once, where no VAE is yet.
                packed = pack_prompts(self._encode(missing))
            states = unpack_prompts(communicator.share(packed))
            self._states.update(zip(missing, split_prompts(states), strict=True))

    def condition(
        self, request: Request, backbone: AnyBackbone, start: ConditioningFrames | None = None
    ) -> Callable[[str, range], Any]:
        """Return what conditions a backbone on one of the request's prompts, for some branches.

        Args:
            request: Whose prompts.
            backbone: With this rank's layers.
            start: What is known of the video before it is made.
        """
        picture = self._picture(request)

        def condition(text: str, branches: range) -> Any:
            prompts = ((self._wrapped(text), picture), (request.negative_prompt, None))
            rows = [self._model.guidance.branches[branch].negative for branch in branches]
            states = join_prompts([self._states[prompts[negative]] for negative in rows])
            if start is not None:
                states |= start.prompt_rows(len(branches))
            return backbone.condition_text(move_prompts(states, self._model.place))

        return condition

    def _seen(self, request: Request) -> list[tuple[str, _Picture | None]]:
        """Return a request's prompts, each with the picture that is seen beside it."""
        picture = self._picture(request)
        return [(self._wrapped(prompt.text), picture) for prompt in request.prompts]

    def _encode(self, prompts: Sequence[tuple[str, _Picture | None]]) -> PromptStates:
        model = self._model
        opened = {picture: _opened(picture) for _, picture in prompts if picture is not None}
        texts = [text for text, _ in prompts]
        pictures = [None if picture is None else opened[picture] for _, picture in prompts]
        with reading(f"the text encoder of the model in {model.folder.path}"):
            place = model.generation_config.text_place(model.place)
            folder = replace(model.folder, report=_warn)
            return model.family.encode_text_with_pictures(folder, texts, pictures, place)

    def _picture(self, request: Request) -> _Picture | None:
        """Return what the text encoder sees beside the request's prompts, if it sees pictures."""
        if request.start is None or not self._model.spec.reads_picture:
            return None
        return request.start, request.fps, kept_frames(request, self._model.spec)

    def _wrapped(self, text: str) -> str:
        return self._model.settings.prompt_template.replace("{}", text)


def _warn(sentence: str) -> None:
    sys.stderr.write(f"longtake: warning: {sentence}\n")


def _opened(picture: _Picture) -> Tensor:
    path, fps, kept = picture
    return ConditioningFile(path, fps=Fraction(fps)).original(kept)
