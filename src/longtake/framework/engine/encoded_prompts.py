"""Prompts as the text encoders see them: encoded on one rank, kept for all requests of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

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


@final
class EncodedPrompts:
    """What the text encoders made of the prompts of a run.

    Args:
        model: Makes the videos.
    """

    def __init__(self, model: ResolvedModel) -> None:
        self._model = model
        self._states: dict[str, PromptStates] = {}

    def encode(self, requests: Sequence[Request], communicator: Communicator, rank: int) -> None:
        """Encode the prompts that are not known yet, on one rank, for all. Collective."""
        needed = [self._wrapped(prompt.text) for request in requests for prompt in request.prompts]
        if self._model.guidance.branches == 2:
            needed += [request.negative_prompt for request in requests]
        missing = [text for text in dict.fromkeys(needed) if text not in self._states]
        if missing:
            packed = None
            if communicator.rank == rank:
                # Text encoders are as large as a transformer: read once, where no VAE is yet.
                model = self._model
                with reading(f"the text encoder of the model in {model.folder.path}"):
                    place = model.generation_config.text_place(model.place)
                    states = model.family.encode_text(model.folder, missing, place)
                packed = pack_prompts(states)
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

        def condition(text: str, branches: range) -> Any:
            prompts = (self._wrapped(text), request.negative_prompt)
            states = join_prompts([self._states[prompts[branch]] for branch in branches])
            if start is not None:
                states |= start.prompt_rows(len(branches))
            return backbone.condition_text(move_prompts(states, self._model.place))

        return condition

    def _wrapped(self, text: str) -> str:
        return self._model.settings.prompt_template.replace("{}", text)
