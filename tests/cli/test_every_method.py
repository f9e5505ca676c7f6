"""Every method, from a YAML file to a video: the real command, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor
from typing_extensions import override

from longtake.framework.callbacks.base import LongtakeCallback
from longtake.framework.exit_status import ExitStatus
from longtake.strategies import BlockDone
from tests.cli.command import frame_count, latents_of, report_of, run_here

FEW_STEPS: dict[str, Any] = {
    "noise": "Independent",
    "timesteps": [1000, 750, 500],
    "flow_shift": 5.0,
    "sampler": {
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "options": {"stochastic_sampling": True},
    },
    "guidance_scale": 1.0,
}
PER_FRAME = {"timesteps_per": "frame"}
CHANGE = [[{"at": 0, "text": "red shape moves left"}, {"at": 2, "text": "blue bird"}]]
"""Latent frame 9 begins at 2.06 s: block 5 of 2 frames each is the first after it."""


def named(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


CAUSAL = {
    "scheduler": named("Autoregressive", block_frames=2),
    "cache": named("RollingKV", frames=5, sinks=1),
    **FEW_STEPS,
}
CASCADE = {**CAUSAL, "scheduler": named("CascadeQueue", block_frames=2)}
QUEUE = {"scheduler": named("FifoQueue", block_frames=3, context_frames=2), "steps": 3}
METHODS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "FullSequence": ({"scheduler": "FullSequence", "cache": "NoCache", "steps": 2}, [7]),
    "FifoQueue": (QUEUE, [5, 2]),
    "SameStepKV": ({**QUEUE, "cache": "SameStepKV"}, [5, 2]),
    "AnchorKV": ({**QUEUE, "cache": "AnchorKV"}, [5, 2]),
    "Autoregressive": (CAUSAL, [2, 2, 2, 1]),
    "CascadeQueue": (CASCADE, [2, 2, 2, 1]),
    "RollingWindow": (
        {
            **CAUSAL,
            **PER_FRAME,
            "scheduler": named("RollingWindow", block_frames=1),
            "cache": named("RollingKV", frames=5, sinks=1, buffer=6, moved_sinks=True),
        },
        [1] * 7,
    ),
    "DiffusionForcing": (
        {
            "scheduler": named("DiffusionForcing", block_frames=2, lag=1, length=6),
            "cache": named("RollingKV", frames=6),
            "noise": "Independent",
            "steps": 3,
        },
        [2, 2, 2, 1],
    ),
    "FrameQueue": (
        {
            **PER_FRAME,
            "scheduler": named("FrameQueue", clip_frames=2, partitions=2),
            "cache": "NoCache",
            "noise": "Independent",
            "steps": 4,
        },
        [1] * 7,
    ),
    "ContextWindows": (
        {
            "scheduler": named("ContextWindows", length=4, overlap=2),
            "cache": "NoCache",
            "noise": named("FreeNoise", length=4, overlap=2),
            "steps": 2,
        },
        [7],
    ),
    "Extend": (
        {
            **PER_FRAME,
            "scheduler": named("Extend", length=4, overlap=2, noised=0.1),
            "cache": "NoCache",
            "noise": "Independent",
            "steps": 2,
        },
        [4, 2, 1],
    ),
}
"""Settings of the model, and the latent frames of the blocks of a video of 7."""
ENDLESS = [name for name in METHODS if name not in ("FullSequence", "ContextWindows")]


@final
class StopAfter(LongtakeCallback):
    """Asks the run to end as Ctrl-C does.

    Args:
        blocks: After so many.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    @override
    def on_block_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, event: BlockDone
    ) -> None:
        """Count."""
        if event.block + 1 == self.blocks:
            module.stop.set()  # type: ignore[operator, union-attr]


@pytest.fixture
def run(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that makes a video from YAML, and returns its folder."""

    def make(settings: dict[str, Any], name: str = "out", **data: Any) -> Path:
        stop, status = data.pop("stop", None), data.pop("status", 0)
        out, file = tmp_path / name, tmp_path / f"{name}.yaml"
        config = {
            "trainer": {"accelerator": "cpu"},
            "model": {"pipeline": str(model), "dtype": "float32", **settings},
            "data": {
                "prompts": ["red shape moves left"],
                "num_frames": 25,
                "height": 32,
                "width": 48,
                **data,
            },
            "keep_latents": "all",
            "output": str(out),
        }
        if stop is not None:
            callback = named(f"{__name__}.StopAfter", blocks=stop)
            trainer = config["trainer"]
            assert isinstance(trainer, dict)
            trainer["callbacks"] = [callback]
        file.write_text(yaml.safe_dump(config))
        done = run_here(capsys, "predict", "--config", file)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return out

    return make


def same(found: list[Tensor], expected: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_a_video(name: str, run: Any) -> None:
    settings, blocks = METHODS[name]
    out = run(settings)
    latents = latents_of(out)
    assert [block.shape[2] for block in latents] == blocks
    assert all(torch.isfinite(block).all() for block in latents)
    assert frame_count(out / "0000" / "video.mp4") == 25
    assert report_of(out)["exit_reason"] == "finished"


@pytest.mark.parametrize(
    ("settings", "untouched"), [(CAUSAL, 5), (CASCADE, 4)], ids=["Autoregressive", "CascadeQueue"]
)
def test_a_prompt_changes_on_the_way(settings: dict[str, Any], untouched: int, run: Any) -> None:
    """From the next block on; what is remembered is made anew with it, unless it must not be.

    Blocks that are in flight then see it too.
    """
    scheduler = settings["scheduler"]
    kept = named(scheduler["class_path"], **scheduler["init_args"], recache=False)
    long = {"num_frames": 49}
    plain = latents_of(run(settings, "plain", **long))
    anew = latents_of(run(settings, "anew", prompts=CHANGE, **long))
    old = latents_of(run({**settings, "scheduler": kept}, "old", prompts=CHANGE, **long))
    assert same(old, plain) == [True] * 5 + [False] * 2
    assert same(anew, plain) == [True] * untouched + [False] * (7 - untouched)
    assert same(anew, old) == [True] * untouched + [False] * (7 - untouched)


def test_a_cascade_of_one_block_in_flight_is_autoregressive(run: Any) -> None:
    alone = {**CASCADE, "scheduler": named("CascadeQueue", block_frames=2, stride=4)}
    assert same(latents_of(run(alone, "cascade")), latents_of(run(CAUSAL, "causal"))) == [True] * 4


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_video_begins_like_a_finite_one_and_ends_when_asked(name: str, run: Any) -> None:
    settings, _ = METHODS[name]
    if name in ("FifoQueue", "SameStepKV", "AnchorKV"):
        settings = {**settings, "scheduler": named("FifoQueue", block_frames=1, context_frames=1)}
    out = run(settings, "endless", num_frames=None, stop=2)
    found = latents_of(out)
    assert len(found) >= 2
    assert frame_count(out / "0000" / "video.mp4") > 0
    assert report_of(out)["exit_reason"] == "stopped"
    whole = latents_of(run(settings, "finite", num_frames=81))
    assert same(found[:2], whole[:2]) == [True, True]


def test_a_finite_video_that_is_ended_early_has_a_whole_file(run: Any) -> None:
    out = run(CAUSAL, num_frames=81, stop=3, status=ExitStatus.INTERRUPTED)
    frames = 1 + 4 * (sum(block.shape[2] for block in latents_of(out)) - 1)
    assert frame_count(out / "0000" / "video.mp4") == frames < 81
