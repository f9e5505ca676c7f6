"""Extension of a finished run: where each of its videos grows on, kept until they have grown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from longtake.errors import OutputError
from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.engine.request import Growth, PromptAt, Request
from longtake.framework.engine.run_folder import EXTENSIONS, RunFolder

_FORMAT: Final = 1
PART: Final = "part"
"""Folder, in a request's, of the journal and snapshots of the part by which it grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """How a video grows, or has grown.

    Args:
        frames: Video frames that were there.
        to: Video frames that there are to be.
        seams: At how many video frames it was extended from its tail: those before, and this one.
        known: The last of the video frames, with which the part begins by which it grows; 0: no
            part, the video goes on from a snapshot, as if it had not ended.
        seen: Latent frames of these.
        shift: What the part's latent frame 0 is called in the video.
        first_block: What the part's block 0 is called in the journal.
        kept: What stays of the file; ``None`` where there is no part.
    """

    frames: int
    to: int
    seams: tuple[int, ...]
    known: int = 0
    seen: int = 0
    shift: int = 0
    first_block: int = 0
    kept: KeptVideo | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the video becomes what it would be had it been made in one go."""
        return self.known == 0

    def part(self, request: Request, folder: RunFolder) -> Request:
        """Return the request for the part by which a video grows: its first frames are known.

        Args:
            request: For the whole video.
            folder: Of the run.
        """
        if self.is_exact:
            return request
        begins = float((self.frames - self.known) / request.fps)
        first = PromptAt(text=request.prompt_at(begins))
        later = (
            PromptAt(text=prompt.text, at=prompt.at - begins)
            for prompt in request.prompts
            if prompt.at > begins
        )
        return replace(
            request,
            num_frames=self.known + self.to - self.frames,
            prompts=(first, *later),
            start=str(folder.path_of(request.index) / "latents"),
            start_frames=self.known,
            keyframes=(),  # all of them are in what is there
            growth=Growth(frames=self.frames, known=self.known, seams=self.seams),
        )

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Return what ``asdict`` has made of one."""
        kept = said["kept"]
        return cls(
            **{
                **said,
                "seams": tuple(said["seams"]),
                "kept": None if kept is None else KeptVideo(**kept),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """What ``extensions.json`` of a run says: written before anything else of an extension.

    Args:
        num_frames: The option ``data.num_frames``, as it is now.
        requests: Those that have grown, or grow, by index.
    """

    num_frames: int
    requests: Mapping[int, Extension]

    @classmethod
    def read(cls, folder: RunFolder) -> Self | None:
        """Return what a run's folder says; ``None``: the run has not been extended.

        Raises:
            OutputError: It cannot be read.
        """
        path = folder.path / EXTENSIONS
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["format"] != _FORMAT:
                raise ValueError(f"format {said['format']} is not known")
            requests = {int(index): Extension.read(one) for index, one in said["requests"].items()}
            return cls(num_frames=said["num_frames"], requests=requests)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} cannot be read: {error}.") from error

    def write(self, folder: RunFolder) -> None:
        """Write it into a run's folder, whole or not at all."""
        requests = {str(index): asdict(one) for index, one in self.requests.items()}
        said = {"format": _FORMAT, "num_frames": self.num_frames, "requests": requests}
        folder.write_json(EXTENSIONS, said)

    def parts(
        self, requests: Sequence[Request], folder: RunFolder, made: set[int]
    ) -> list[Request]:
        """Return requests with those replaced that are to grow by a part.

        Args:
            requests: For whole videos.
            folder: Of the run.
            made: Indices of those that have grown.
        """
        growing = self.requests.keys() - made
        return [
            self.requests[one.index].part(one, folder) if one.index in growing else one
            for one in requests
        ]


def saved_in(folder: RunFolder, request: Request) -> Path:
    """Return the folder of a request's journal and snapshots."""
    own = folder.path_of(request.index)
    return own if request.growth is None else own / PART
