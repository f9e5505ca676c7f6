"""The training loop both networks share: AdamW, cosine rate, running average, exact resume."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from demo_model import checkpoint


@dataclass(frozen=True)
class GenerationConfig:
    """What one run needs to be repeated.

    Attributes:
        stage: Name of the stage; it also separates the stages' random numbers.
        steps: Number of steps; the learning rate ends with the last one.
        rate: Largest learning rate.
        warmup: Steps until it is reached.
        decay: Weight decay.
        average: Decay per step of the running average of the weights.
        seed: Seed of every random number.
        save_every: Steps between checkpoints.
    """

    stage: str
    steps: int
    rate: float
    warmup: int
    decay: float
    average: float
    seed: int = 0
    save_every: int = 500


def generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Random numbers that depend on nothing but their place in the run, so resuming is exact."""
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _rate(generation_config: GenerationConfig, step: int) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / generation_config.steps))
    return (
        generation_config.rate
        * min(1.0, (step + 1) / generation_config.warmup)
        * (0.02 + 0.98 * cosine)
    )


def _state(
    model: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.AdamW
) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
    return tensors


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}


def _restore(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.AdamW
) -> dict[str, Tensor]:
    model.load_state_dict(_part(tensors, "model"))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return _part(tensors, "average")


def _resume(
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    generation_config: GenerationConfig,
    folder: Path,
) -> tuple[int, dict[str, Tensor]]:
    """Takes up the newest checkpoint, if any; returns the steps done and the running average."""
    found = checkpoint.load_newest(folder)
    if found is None:
        return 0, {k: v.detach().clone() for k, v in model.state_dict().items()}
    if found[1]["generation_config"] != asdict(generation_config):
        raise ValueError(
            f"{folder} holds a run of another generation_config: {found[1]['generation_config']}"
        )
    return int(found[1]["step"]), _restore(found[0], model, optimizer)


def averaged(model: nn.Module, folder: Path) -> int:
    """Loads the running average of the newest checkpoint into a model; returns its step.

    Raises:
        FileNotFoundError: If there is no checkpoint yet.
    """
    found = checkpoint.load_newest(folder)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {folder}; run the stage that trains it first")
    model.load_state_dict(_part(found[0], "average"))
    return int(found[1]["step"])


def _update(model: nn.Module, optimizer: torch.optim.AdamW, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class _Progress:
    """Prints a line every 50 steps: the smoothed figure, the pace, the time left."""

    def __init__(self, generation_config: GenerationConfig, first: int) -> None:
        self._generation_config, self._first = generation_config, first
        self._begin = time.monotonic()
        self._shown: float | None = None

    def show(self, done: int, figure: float) -> None:
        """Takes in the figure of a step; ``done`` counts the steps with it."""
        generation_config = self._generation_config
        self._shown = figure if self._shown is None else 0.97 * self._shown + 0.03 * figure
        if done % 50 and done != generation_config.steps:
            return
        pace = (time.monotonic() - self._begin) / (done - self._first)
        print(
            f"{generation_config.stage} {done}/{generation_config.steps} loss {self._shown:.4f}"
            f" {pace:.3f} s/step, {pace * (generation_config.steps - done) / 60.0:.1f} min left",
            flush=True,
        )


def train(
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], tuple[Tensor, float]],
    generation_config: GenerationConfig,
    folder: Path,
) -> None:
    """Trains a model, from its newest checkpoint if there is one.

    Args:
        model: Changed in place.
        loss_of: Of a step and its random numbers: the loss and the number to print.
        generation_config: How long and how fast.
        folder: Where the checkpoints lie.

    Raises:
        ValueError: If the checkpoint belongs to another generation_config.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=generation_config.rate,
        betas=(0.9, 0.98),
        weight_decay=generation_config.decay,
    )
    first, average = _resume(model, optimizer, generation_config, folder)
    progress = _Progress(generation_config, first)
    for step in range(first, generation_config.steps):
        loss, figure = loss_of(
            step, generator(generation_config.seed, generation_config.stage, step)
        )
        _update(model, optimizer, loss, _rate(generation_config, step))
        keep = min(generation_config.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1.0 - keep)
        done = step + 1
        progress.show(done, figure)
        if done % generation_config.save_every == 0 or done == generation_config.steps:
            tensors = _state(model, average, optimizer)
            checkpoint.save(folder, done, tensors, {"generation_config": asdict(generation_config)})
