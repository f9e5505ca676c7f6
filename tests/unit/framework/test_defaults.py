"""Every documented default, written down: one that changes changes people's videos."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import pytest

from longtake.caches import NextBlockKV
from longtake.framework.data import PromptOptions
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.module import VideoModule
from longtake.framework.trainer import InferenceTrainer
from longtake.noise import SharedPool
from longtake.plan.cost import simulator as simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search import decoders as choose_decoders
from longtake.plan.search import layouts as choose
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal, SequenceParallel
from longtake.strategies.base import ParallelStrategy

MODEL = {
    "family": None,
    "steps": None,
    "guidance_scale": None,
    "guidance_scale_2": None,
    "sampler": None,
    "flow_shift": None,
    "timesteps": None,
    "timesteps_per": "model",
    "weights": None,
    "weights_2": None,
    "quantize": None,
    "offload": "none",
    "vae_dtype": "float32",
    "cache_format": "model",
    "prompt_template": None,
    "dtype": "bfloat16",
    "attention": "native",
    "vae_tile": None,
    "start_noise": 0.5,
}
"""Of a model's options, those that are plain values."""


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (FifoQueue, {"block_frames": 8, "context_frames": 8, "stride": 1}),
        (
            DualParal,
            {
                "stages": "auto",
                "cfg": "auto",
                "guidance": "auto",
                "ulysses": 1,
                "ring": 1,
                "split": None,
                "decode_devices": "auto",
                "data": 1,
            },
        ),
        (
            SequenceParallel,
            {
                "ulysses": "auto",
                "ring": "auto",
                "cfg": "auto",
                "overlap": 1,
                "decode_devices": "auto",
                "aco": False,
                "data": 1,
            },
        ),
        (
            InferenceTrainer,
            {
                "accelerator": "auto",
                "devices": 1,
                "num_nodes": 1,
                "strategy": None,
                "callbacks": None,
                "deterministic": False,
                "transport": "auto",
            },
        ),
        (
            PromptOptions,
            {
                "prompts": None,
                "num_frames": "auto",
                "height": None,
                "width": None,
                "fps": None,
                "seed": 0,
                "negative_prompt": None,
                "start": None,
                "start_frames": None,
                "end": None,
                "keyframes": None,
            },
        ),
    ],
)
def test_options(function: Callable[..., Any], defaults: dict[str, Any]) -> None:
    assert defaults_of(function) == defaults


def test_options_of_a_model() -> None:
    """``VideoModule`` and the command line take them from here."""
    given = defaults_of(GenerationConfig)
    assert {name: given[name] for name in MODEL} == MODEL
    config = VideoModule(pipeline="demo").generation_config
    assert {name: getattr(config, name) for name in MODEL} == MODEL
    assert (config.variant, config.revision, config.lora) == (None, None, None)
    assert isinstance(config.noise, SharedPool)
    assert isinstance(config.cache, NextBlockKV)
    assert config.guidance is None, "classifier-free, with guidance_scale"
    assert config.reuse is None, "every layer of every task is computed"
    scheduler = config.scheduler
    assert isinstance(scheduler, FifoQueue)
    assert (scheduler.block_frames, scheduler.context_frames, scheduler.stride) == (8, 8, 1)
    assert {one.name for one in fields(config)} == {
        *MODEL,
        *("pipeline", "variant", "revision", "scheduler", "noise", "cache", "guidance"),
        *("reuse", "lora"),
    }


@pytest.mark.parametrize(
    ("data", "defaults"),
    [
        (Mesh, {"data": 1, "cfg": 1, "pipe": 1, "ring": 1, "ulysses": 1}),
        (Layout, {"chunks": 1, "decoders": 0, "tiled": False, "aco": False}),
        (
            Workload,
            {
                "layer_bytes": 0.0,
                "requests": 1,
                "tiles": 1,
                "prompt_changes": (),
                "known": 0,
                "reuses": False,
            },
        ),
        (
            Hardware,
            {
                "hiding": 1.0,
                "memory_bandwidth": math.inf,
                "half_rate": 0.0,
                "attention": 0.0,
                "score": 0.0,
                "passes": math.inf,
                "call": 0.0,
                "unfolding": math.inf,
                "half_channels": 0.0,
                "decoder_passes": math.inf,
                "cpu": False,
                "node_size": 0,
                "node_bandwidth": math.inf,
                "node_latency": 0.0,
            },
        ),
        (
            Asked,
            {
                "stages": None,
                "cfg": None,
                "ring": 1,
                "ulysses": 1,
                "together": None,
                "split": None,
                "chunks": 1,
            },
        ),
    ],
)
def test_plans(data: type[Any], defaults: dict[str, Any]) -> None:
    given = {one.name: one.default for one in fields(data) if one.default is not MISSING}
    assert given == defaults


def test_a_strategy_of_ones_own_decodes_on_its_output_rank() -> None:
    assert (ParallelStrategy.decode_devices, ParallelStrategy.aco) == (0, False)


def test_numbers_that_docstrings_promise() -> None:
    assert choose.CLOSE == 1.02, "at most 2 % longer"
    assert choose.WEIGHTS_SHARE == 0.9
    assert choose.FEW_BLOCKS == 4
    assert simulate.ENOUGH_BLOCKS == 32, "about a minute of video"
    assert choose_decoders.ENOUGH_TURNS == 3, "one first, one midway, one last"
