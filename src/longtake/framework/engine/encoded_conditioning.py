"""Conditioning frames, encoded: on one rank, once, kept for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor

from longtake.framework.engine.conditioning import kept_frames, start_file
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.pictures import Picture, pictures
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.timings import Timings
from longtake.models import ConditioningFrames, GivenFrames
from longtake.models.loading.guard import reading
from longtake.models.text import pack_prompts, unpack_prompts
from longtake.strategies import Communicator

_Shown: TypeAlias = Mapping[Picture, Tensor]
"""Pictures with their pixels, ``(height, width, 3)`` uint8 RGB, of the video's size."""


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
        self._made: dict[tuple[object, ...], ConditioningFrames] = {}

    def encode(self, requests: Sequence[Request], communicator: Communicator, rank: int) -> None:
        """Encode the frames that are not known yet, on one rank, for all. Collective."""
        for request in requests:
            if not request.shows_given_frames or _key(request) in self._made:
                continue
            with self._timings.part("start"):
                packed = None
                if communicator.rank == rank:  # read once, where no VAE is yet
                    packed = pack_prompts(self._encode(request).states())
                start = ConditioningFrames.of_states(unpack_prompts(communicator.share(packed)))
                self._made[_key(request)] = start.to(self._model.place.device)

    def of(self, request: Request) -> ConditioningFrames | None:
        """Return what is known of a request's video; ``None``: nothing."""
        return self._made[_key(request)] if request.shows_given_frames else None

    def _encode(self, request: Request) -> ConditioningFrames:
        model = self._model
        shown = {
            picture: ConditioningFile(picture.path, picture.option).last(
                1, request.height, request.width
            )[0]
            for picture in pictures(request, model.spec.compression)
        }
        if request.growth is not None and request.start is not None:
            seen = model.spec.compression.latent_frames(kept_frames(request, model.spec))
            tail = ConditioningFrames(latents=Journal(Path(request.start).parent).tail(seen))
            with reading(f"the encoder of the model in {model.folder.path}"):
                return replace(tail, keyframes=self._stills(shown))
        with reading(f"the encoder of the model in {model.folder.path}"):
            start = self._start(request, shown)
            held = self._stills({one: pixels for one, pixels in shown.items() if self._holds(one)})
        return replace(start, keyframes={**start.keyframes, **held})

    def _start(self, request: Request, shown: _Shown) -> ConditioningFrames:
        """Return what the request starts from, and all else that a model is told of."""
        model, spec = self._model, self._model.spec
        if request.start is None:
            size = (request.height, request.width)
            height, width = (pixels // spec.compression.spatial for pixels in size)
            return ConditioningFrames(latents=torch.empty(1, spec.channels, 0, height, width))
        file = start_file(request)
        count = kept_frames(request, spec, file)
        size = (request.height, request.width)
        original = file.original(count) if spec.needs_start else None
        if spec.start != "channels":
            read = GivenFrames(start=file.frames(count, *size), original=original)
            return model.family.encode_given(model.folder, spec, read, model.place)
        frames = file.last(count, *size)  # no more than a clip
        told = frames if spec.honours("continue") == "native" else frames[:1]
        length = request.num_frames
        given = GivenFrames(
            start=told,
            original=original,
            pictures={
                one.latent_frame: pixels for one, pixels in shown.items() if not self._holds(one)
            },
            latent_frames=None if length is None else spec.compression.latent_frames(length),
        )
        start = model.family.encode_given(model.folder, spec, given, model.place)
        if len(told) == count:
            return start
        latents = model.family.encode_video(model.folder, frames, model.place.device)
        later = range(start.latents.shape[2], latents.shape[2])
        return replace(start, keyframes={at: latents[:, :, at : at + 1] for at in later})

    def _holds(self, picture: Picture) -> bool:
        """Whether a picture's latents are held, instead of being told in input channels."""
        spec = self._model.spec
        return spec.start != "channels" or spec.honours(picture.kind) != "native"

    def _stills(self, shown: _Shown) -> dict[int, Tensor]:
        """Return the latents of pictures that are held, by latent frame."""
        model, found = self._model, dict[int, Tensor]()
        for picture, pixels in shown.items():
            found |= model.family.encode_still(
                model.folder, model.spec, pixels, picture.latent_frame, model.place
            )
        return found


def _key(request: Request) -> tuple[object, ...]:
    """Return all of a request that its given frames depend on."""
    given = (request.start, request.start_frames, request.end, request.keyframes)
    return (*given, request.num_frames, request.fps, request.height, request.width)
