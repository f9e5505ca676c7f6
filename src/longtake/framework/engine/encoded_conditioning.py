"""Conditioning frames, encoded: on one rank, once, kept for a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from longtake.framework.engine.conditioning import kept_frames
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.timings import Timings
from longtake.models import ConditioningFrames
from longtake.models.loading.guard import reading
from longtake.models.text import pack_prompts, unpack_prompts
from longtake.strategies import Communicator

_Key = tuple[str | None, int | None, int | None, int, int]


@final
class EncodedConditioning:
    """What the VAE's encoder, and an image encoder if there is one, made of the given frames.

    Args:
        model: Makes the videos.
        timings: Gets the seconds of part ``start``.
    """

    def __init__(self, model: ResolvedModel, timings: Timings) -> None:
        self._model = model
        self._timings = timings
        self._made: dict[_Key, ConditioningFrames] = {}

    def encode(self, requests: Sequence[Request], communicator: Communicator, rank: int) -> None:
        """Encode the starts that are not known yet, on one rank, for all. Collective."""
        for request in requests:
            if request.start is None or _key(request) in self._made:
                continue
            with self._timings.part("start"):
                packed = None
                if communicator.rank == rank:  # read once, where no VAE is yet
                    packed = pack_prompts(self._encode(request).states())
                start = ConditioningFrames.of_states(unpack_prompts(communicator.share(packed)))
                self._made[_key(request)] = start.to(self._model.place.device)

    def of(self, request: Request) -> ConditioningFrames | None:
        """Return what is known of a request's video; ``None``: nothing."""
        return None if request.start is None else self._made[_key(request)]

    def _encode(self, request: Request) -> ConditioningFrames:
        assert request.start is not None
        model, count = self._model, kept_frames(request, self._model.spec)
        if request.growth is not None:
            seen = model.spec.compression.latent_frames(count)
            return ConditioningFrames(latents=Journal(Path(request.start).parent).tail(seen))
        file = ConditioningFile(request.start)
        frames = file.last(count, request.height, request.width)
        # Only a model that was made for given frames may want one as it was.
        original = file.original(count) if model.spec.start == "channels" else None
        with reading(f"the encoder of the model in {model.folder.path}"):
            return model.family.encode_start(
                model.folder, model.spec, frames, model.place, original
            )


def _key(request: Request) -> _Key:
    size = (request.height, request.width)
    return (request.start, request.start_frames, request.num_frames, *size)
