"""Options that Python gives: forgiven where it is clear what is meant, else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from longtake.api import InferenceTrainer, PromptData, VideoModule
from longtake.caches import NextBlockKV
from longtake.errors import ConfigurationError
from longtake.guidance import NoGuidance
from longtake.reuse import FirstBlockCache
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal

MISTAKES: list[tuple[type, dict[str, Any], str]] = [
    (VideoModule, {}, "model.* are not complete: missing a required argument: 'pipeline'"),
    (VideoModule, {"pipeline": "demo", "stepz": 3}, "no option model.stepz; the nearest is steps"),
    (VideoModule, {"pipeline": 5}, "model.pipeline is 5, of type int; it must be a text"),
    (VideoModule, {"pipeline": "demo", "steps": "8"}, "must be a whole number or None"),
    (VideoModule, {"pipeline": "demo", "steps": True}, "model.steps is True, of type bool"),
    (VideoModule, {"pipeline": "demo", "scheduler": FifoQueue}, "that is made: FifoQueue()"),
    (VideoModule, {"pipeline": "demo", "cache": "NoCache"}, "it must be a FeatureCache"),
    (VideoModule, {"pipeline": "demo", "dtype": torch.float32}, "must be 'float32' or 'bfloat16'"),
    (VideoModule, {"pipeline": "demo", "guidance": 3}, "something that makes a Guidance when"),
    (VideoModule, {"pipeline": "demo", "timesteps": [1.0, "x"]}, "a list of a number or None"),
    (PromptData, {"prompts": "a", "num_frames": 17.0}, "data.num_frames is 17.0, of type float"),
    (PromptData, {"prompts": "a", "seed": "x"}, "data.seed is 'x', of type str"),
    (InferenceTrainer, {"devices": "auto"}, "trainer.devices is 'auto', of type str"),
    (InferenceTrainer, {"strategy": "DualParal"}, "it must be a ParallelStrategy or None"),
    (InferenceTrainer, {"strategy": DualParal}, "that is made: DualParal()"),
    (InferenceTrainer, {"accelerator": "gpu"}, "it must be 'auto' or 'cpu' or 'cuda'"),
    (InferenceTrainer, {"callbacks": "x"}, "a list of a Callback or a Callback or None"),
]


@pytest.mark.parametrize(("made", "options", "said"), MISTAKES)
def test_a_mistake_is_a_sentence(made: type, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(**options)
    assert said in str(caught.value)


def test_what_is_clear_is_forgiven() -> None:
    model = VideoModule(
        Path("demo"),  # type: ignore[arg-type]
        steps=np.int64(4),  # type: ignore[arg-type]
        timesteps=(1000, 750.0, 500, 250),  # type: ignore[arg-type]
        reuse=FirstBlockCache(0.1),  # type: ignore[arg-type]
        guidance=NoGuidance,
        cache=NextBlockKV(),
    )
    config = model.generation_config
    assert (config.pipeline, config.steps, type(config.steps)) == ("demo", 4, int)
    assert config.timesteps == [1000.0, 750.0, 500.0, 250.0]
    assert config.reuse is not None
    assert isinstance(config.reuse(), FirstBlockCache)
    assert config.guidance is NoGuidance
    data = PromptData(prompts=("a", "b"), start=Path("x.png"), num_frames=17)  # type: ignore[arg-type]
    assert data.settled["start"] == "x.png"


def test_lightnings_callbacks_are_taken_and_one_may_stand_alone() -> None:
    first, second = pl.Callback(), pl.Callback()
    trainer = InferenceTrainer(accelerator="cpu", callbacks=first)  # type: ignore[arg-type]
    trainer.attach(second)  # type: ignore[arg-type]
    assert trainer.callbacks[-2:] == [first, second]  # type: ignore[attr-defined]
