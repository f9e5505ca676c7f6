"""Description of a run, for its report: where it runs and why there, and what it is made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import psutil
import torch

from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.request import Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models.loading.lora import Lora, LoraFile
from longtake.processor import processor_name

_ALONE: Final = "one device was asked for"
_CHOSEN: Final = (
    "what trainer.strategy gives; of layouts that have it, the one that is done first on a "
    "simulated clock (longtake plan shows what was weighed)"
)
_FILES: Final = ("start", "start_checksum", "end", "end_checksum", "keyframes")


def described(chosen: ChosenLayout) -> dict[str, Any]:
    """Return what a run is made with and where, as JSON can say it.

    Args:
        chosen: Of a run whose requests are checked.
    """
    layout, model, shares = chosen.layout, chosen.workloads.model, chosen.replicas.shares
    return {
        "loras": [
            {
                "file": str(file.path.absolute()),
                "scale": file.lora.scale,
                "component": file.lora.component,
                "keys": len(file.shapes),
                "applied": _applied(model, file.lora),
            }
            for file in map(LoraFile, model.folder.loras)
        ],
        "skipped": list(model.skipped),
        "layout": {
            "strategy": type(chosen.strategy).__name__,
            "mesh": asdict(chosen.mesh),
            "layers": [f"{stage.start}:{stage.stop}" for stage in layout.stages],
            "decode_devices": layout.decoders,
            "why": _ALONE if chosen.world_size == 1 else _CHOSEN,
            **({"requests": list(map(list, shares))} if len(shares) > 1 else {}),
        },
        "hardware": hardware(model.place.device),
    }


def _applied(model: ResolvedModel, lora: Lora) -> dict[str, int]:
    """Return how many of a LoRA's keys change each transformer."""
    return {part: keys for (one, part), keys in model.merged.items() if one == lora}


def request_described(
    workloads: Workloads, request: Request, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a request is made from.

    Args:
        workloads: Of the run.
        request: Which one.
        inputs: What ``inputs.json`` says of it.
    """
    levels = workloads.sampler(request).timesteps
    return {
        "prompts": inputs["prompts"],
        "negative_prompt": inputs["negative_prompt"],
        **{name: inputs[name] for name in _FILES if inputs.get(name)},
        "noise_levels": [float(f"{level:.6g}") for level in levels],
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what of a machine may change bits, and how large it is."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
