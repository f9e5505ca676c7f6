"""Configurations for GPUs of 8, 24, 48 and 80 GB: options that make a model fit, and its time.

    python tools/gpu_configs.py --write

writes ``configs/gpu/*.yaml`` and the tables of ``docs/gpus.md`` from ``longtake plan``'s own parts:
memory measured on the meta device (tensors without storage, as under FakeTensorMode), times from
the ring clock and the profiles. It takes several minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import yaml

import marked_part
from longtake.caches import NextBlockKV, NoCache
from longtake.framework.engine.comparison import Choice, best_of, compare
from longtake.framework.engine.generation_config import GenerationConfig, Quantization
from longtake.framework.engine.memory import RunMemory
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models import Placement, open_for_plan
from longtake.plan.cost.profiles import profile
from longtake.plan.devices import Hardware
from longtake.schedulers import FifoQueue

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "configs" / "gpu"
PAGE: Final = ROOT / "docs" / "gpus.md"
SPARE: Final = 0.9
"""Of a device's memory: the rest is for the driver, kernels' workspaces and fragments."""
MODELS: Final = {n: f"Wan-AI/Wan2.1-T2V-{n.upper()}-Diffusers" for n in ("1.3b", "14b")}
SIZES: Final = {"480p": (480, 832, 3.0), "720p": (720, 1280, 5.0)}
GPUS: Final = {8: "RTX 4060", 24: "RTX 4090", 48: "L40S", 80: "H100"}
DEVICES: Final = (1, 2, 4, 8)
WAYS: Final = {"50 steps": (50, 5.0), "4 steps": (4, 1.0)}
"""Steps and guidance: as the models were trained, and with a few-step LoRA or weights."""
FRAMES: Final = 1025
WINDOW: Final = (8, 8)
SMALL: Final = (4, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Options that need less memory than the rung before; what costs nothing comes first."""

    options: Mapping[str, Any]
    window: tuple[int, int] = WINDOW
    cached: bool = True


_TEXT: Final = {"offload": "text_encoder"}
_TILES: Final = {**_TEXT, "vae_tile": 256}
_LAYERS: Final = {**_TILES, "offload": "layers"}
_INT8: Final = {**_TILES, "vae_dtype": "bfloat16", "cache_format": "int8"}
_BYTES: Final = {**_INT8, "quantize": {"transformer": "int8"}}
_LEAST: Final = {**_BYTES, "offload": "layers"}
LADDER: Final = (
    Rung(options={}),
    Rung(options=_TEXT),
    Rung(options=_TILES),
    Rung(options=_LAYERS),
    Rung(options={**_INT8, "offload": "layers"}),
    Rung(options=_BYTES),
    Rung(options=_LEAST),
    Rung(options=_LEAST, cached=False),
    Rung(options=_LEAST, window=SMALL),
    Rung(options=_LEAST, window=SMALL, cached=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What is run, and what it takes."""

    rung: Rung
    choice: Choice
    host: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model at a size, made in so many steps."""

    name: str
    size: str
    way: str

    def parts(self, rung: Rung) -> tuple[ResolvedModel, Request]:
        """Return the model with some options, and a video of a minute."""
        height, width, shift = SIZES[self.size]
        steps, guidance = WAYS[self.way]
        options = {**rung.options}
        if "quantize" in options:
            options["quantize"] = Quantization(**options["quantize"])
        config = GenerationConfig(
            MODELS[self.name],
            scheduler=FifoQueue(*rung.window),
            cache=NextBlockKV() if rung.cached else NoCache(),
            steps=steps,
            guidance_scale=guidance,
            flow_shift=shift,
            **options,
        )
        model = ResolvedModel(config, Placement(torch.device("cpu"), torch.bfloat16), open_for_plan)
        prompts = (PromptAt(text="a harbor at dawn"),)
        request = Request(prompts=prompts, num_frames=FRAMES, height=height, width=width)
        return model, request

    def fits(self, known: dict[object, Any]) -> dict[tuple[int, int], Fit]:
        """Return the first rung that fits, by gigabytes and devices.

        Args:
            known: Memory and operations, which do not depend on the steps; filled.
        """
        found: dict[tuple[int, int], Fit] = {}
        for rung in LADDER:
            open_ = [(gb, n) for gb in GPUS for n in DEVICES if (gb, n) not in found]
            if not open_:
                break
            model, request = self.parts(rung)
            of = self.name, self.size, LADDER.index(rung)
            memory: RunMemory = known.setdefault(of, RunMemory(model))
            tiled = self.name, self.size, rung.options.get("vae_tile")
            for gb, devices in open_:
                workloads = Workloads(model, usable(gb))
                own = workloads.of(request)
                if tiled not in known:
                    known[tiled] = workloads.counted(own).flops
                own = replace(own, flops=known[tiled])
                choices = compare(workloads, memory, request, devices, own=own)
                choice = best_of(choices, own.cache)
                if choice is not None and type(choice.cache) is type(own.cache):
                    assert choice.layout is not None
                    held = memory.of(own, choice.layout)
                    host = max(one.host for one in held)
                    found[gb, devices] = Fit(rung=rung, choice=choice, host=host)
            print(self, rung.options, len(found), flush=True)
        return found


def usable(gb: int) -> Hardware:
    """Return a device of the given memory, with what of it is used."""
    hardware = profile(GPUS[gb])
    return replace(hardware, memory=SPARE * hardware.memory)


def yaml_of(model: Model, gb: int, devices: int, fit: Fit) -> str:
    """Return a configuration that is ready to run."""
    height, width, shift = SIZES[model.size]
    steps, guidance = WAYS[model.way]
    block, context = fit.rung.window
    strategy = {"class_path": fit.choice.strategy, "init_args": dict(fit.choice.options)}
    content = {
        "trainer": {"accelerator": "cuda", "devices": devices, "strategy": strategy},
        "model": {
            "pipeline": MODELS[model.name],
            "scheduler": {
                "class_path": "FifoQueue",
                "init_args": {"block_frames": block, "context_frames": context},
            },
            "cache": "NextBlockKV" if fit.rung.cached else "NoCache",
            "steps": steps,
            "guidance_scale": guidance,
            "flow_shift": shift,
            "dtype": "bfloat16",
            **fit.rung.options,
        },
        "data": {
            "prompts": ["A harbor at dawn, fishing boats leave the quay, calm water, soft light."],
            "num_frames": FRAMES,
            "height": height,
            "width": width,
            "fps": 16,
            "seed": 0,
        },
        "output": "out/harbor",
    }
    count = "one GPU" if devices == 1 else f"{devices} GPUs"
    name = name_of(model, gb, devices)
    needs = " It needs pip install 'longtake[quantize]'." * ("quantize" in fit.rung.options)
    return (
        f"# One minute at {model.size} from Wan 2.1 {model.name.upper()} on {count} of {gb} GB.\n"
        f"# Planned for {GPUS[gb]}: {_time(fit.choice.seconds)}, first frames after "
        f"{_time(fit.choice.first)}, {fit.choice.peak / 1e9:.1f} GB; never run on a GPU.{needs}\n"
        f"#   longtake predict --config {name} --output out/harbor\n"
        f"# Written by tools/gpu_configs.py.\n{yaml.safe_dump(content, sort_keys=False)}"
    )


def name_of(model: Model, gb: int, devices: int) -> str:
    """Return the name of a ready configuration."""
    return f"{devices}x{gb}gb-wan2.1-{model.name}-{model.size}"


def tables(every: Mapping[Model, Mapping[tuple[int, int], Fit]]) -> Iterator[str]:
    """Yield the lines of the page."""
    for model, found in every.items():
        yield ""
        yield f"### Wan 2.1 {model.name.upper()}, {model.size}, {model.way}"
        yield ""
        titles = ("GPUs", "options of `model:`", "layout", "a minute of video", "first frames")
        yield f"| {' | '.join((*titles, 'peak', 'host'))} |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for gb in GPUS:
            for devices in DEVICES:
                fit = found.get((gb, devices))
                name = f"{devices} x {gb} GB ({GPUS[gb]})"
                if fit is None:
                    yield f"| {name} | none fits | | | | | |"
                    continue
                yield (
                    f"| {name} | {_words(fit.rung)} | {_layout(fit.choice)} | "
                    f"{_time(fit.choice.seconds)} | {_time(fit.choice.first)} | "
                    f"{fit.choice.peak / 1e9:.1f} GB | {fit.host / 1e9:.0f} GB |"
                )
    yield ""


def _words(rung: Rung) -> str:
    options = {**rung.options}
    if rung.window != WINDOW:
        options["block_frames, context_frames"] = rung.window[0]
    if not rung.cached:
        options["cache"] = "NoCache"
    found = []
    for name, value in options.items():
        said = "int8 (transformer)" if isinstance(value, dict) else str(value)
        found.append(f"`{name}: {said}`")
    return ", ".join(found) or "as they are"


def _layout(choice: Choice) -> str:
    assert choice.layout is not None
    mesh = choice.layout.mesh
    axes = {"cfg": mesh.cfg, "stages": mesh.pipe, "ring": mesh.ring, "ulysses": mesh.ulysses}
    said = [f"{name} {degree}" for name, degree in axes.items() if degree > 1]
    said += [f"{choice.layout.decoders} decodes"] * (choice.layout.decoders > 0)
    return ", ".join(said) or "one device"


def _time(seconds: float | None) -> str:
    assert seconds is not None
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Write the configurations and the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them")
    parser.parse_args()
    every: dict[Model, Mapping[tuple[int, int], Fit]] = {}
    known: dict[object, Any] = {}
    FOLDER.mkdir(exist_ok=True)
    for way in WAYS:
        for name in MODELS:
            for size in SIZES:
                model = Model(name, size, way)
                every[model] = model.fits(known)
    for model, found in every.items():
        for (gb, devices), fit in found.items():
            wanted = devices == 1 or (devices == 8 and model.name == "14b")
            if model.way == "50 steps" and wanted:
                file = FOLDER / f"{name_of(model, gb, devices)}.yaml"
                file.write_text(yaml_of(model, gb, devices, fit), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    made = "".join(f"{line}\n" for line in tables(every))
    PAGE.write_text(marked_part.replaced(page, "tools/gpu_configs.py", made), encoding="utf-8")


if __name__ == "__main__":
    main()
