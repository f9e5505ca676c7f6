"""Libraries are silent while longtake uses them from a script, and as they were afterwards."""

from __future__ import annotations

import logging
import warnings

import pytest
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from longtake.framework.console.quiet import quietly
from longtake.framework.trainer import InferenceTrainer


def test_a_scripts_settings_are_put_back() -> None:
    logger, bars = logging.getLogger("lightning.pytorch"), transformers.utils.logging
    before = logger.level, bars.is_progress_bar_enabled(), are_progress_bars_disabled()
    with quietly():
        assert logger.level == logging.ERROR
        assert not bars.is_progress_bar_enabled()
        assert are_progress_bars_disabled() == before[2], "downloads are shown as before"
    assert (logger.level, bars.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


def test_warnings_of_ones_own_are_heard(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    with quietly():
        warnings.warn_explicit("mine", UserWarning, "file", 1, module="script")
        warnings.warn_explicit("theirs", UserWarning, "file", 1, module="lightning.pytorch.x")
    assert [str(one.message) for one in recwarn] == ["mine"]


def test_a_trainer_is_made_without_hints(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lightning.pytorch")
    InferenceTrainer(accelerator="cpu")
    assert not caplog.records
