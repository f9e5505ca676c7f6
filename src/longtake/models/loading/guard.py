"""Guard around libraries that read a model's files: whatever they raise is said of the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from longtake.errors import LongtakeError, ModelError

_LONGEST: Final = 300


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an error that is not one of longtake's own into the refusal of what is being read.

    diffusers and transformers build modules from any configuration that they are given, and fail
    in as many ways as there are mistakes in it.

    Args:
        what: Is being read, for the message: ``the vae in /models/x``, say.

    Raises:
        ModelError: Something else than a ``LongtakeError`` or an interrupt was raised.
    """
    try:
        yield
    except (LongtakeError, torch.OutOfMemoryError):
        raise
    except MemoryError as error:
        raise ModelError(
            f"{what} cannot be read: it asks for more memory than there is, so its files are "
            f"damaged, or those of a model that is too large for this machine."
        ) from error
    except Exception as error:  # of any class; see above
        said = " ".join(str(error).split())[:_LONGEST]
        raise ModelError(
            f"{what} cannot be read: its files are damaged, or do not fit each other "
            f"({type(error).__name__}: {said})."
        ) from error
