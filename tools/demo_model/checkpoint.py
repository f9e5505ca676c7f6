"""Checkpoints of a training run: safetensors and JSON, complete or absent, never half written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes the checkpoint of a step and removes all but the newest ones.

    Args:
        folder: Where the run's checkpoints lie; made when absent.
        step: Steps done.
        tensors: State to keep.
        facts: Further JSON values, for example the generation config it belongs to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:06d}"
    draft = folder / f".draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, draft / "state.safetensors")
    (draft / "state.json").write_text(json.dumps({"step": step, **facts}, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)  # the name appears only now, with everything in it
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint's tensors and facts, or ``None`` if there is none."""
    found = sorted(folder.glob("step-*"))
    if not found:
        return None
    facts: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
    return load_file(found[-1] / "state.safetensors"), facts
