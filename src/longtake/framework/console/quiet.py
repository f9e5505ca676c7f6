"""Quiet libraries: their hints about training, hardware that is not there and progress of ours."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import transformers
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

_LOGGERS: Final = ("lightning.pytorch", "lightning.fabric", "diffusers", "transformers")
# PIL warns of damaged files, which are refused, or shown as far as they can be.
_WARN: Final = r"(lightning|diffusers|transformers|torch|PIL)\b.*"


def quiet() -> None:
    """Silence libraries in this process, for good: the command's own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _no_bars()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_WARN)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence libraries for a while: a script's or notebook's own settings are put back."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    bars, downloads = transformers.utils.logging.is_progress_bar_enabled(), _no_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_WARN)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        if not downloads:
            disable_progress_bars()


def _no_bars() -> bool:
    """Leave out the bars of weights that are read; return whether downloads have theirs."""
    downloads = not are_progress_bars_disabled()
    transformers.utils.logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()  # transformers has switched off those as well
    return downloads
