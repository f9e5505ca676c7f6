"""World of good inputs, from which hostile ones are made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from hostile.schema import Option, options
from longtake.framework.main import main
from longtake.testing.tiny.base import tiny_wan_folder

SMALL: Final = (
    *("--trainer.accelerator", "cpu", "--model.dtype", "float32", "--data.height", "32"),
    *("--data.width", "48", "--data.num_frames", "5", "--model.steps", "1"),
    *("--model.scheduler", "FullSequence", "--model.cache", "NoCache", "--progress", "none"),
    *("--data.prompts", "red shape"),
)
"""Options of a video that is made in a second."""
_LAYER: Final = "blocks.0.attn1.to_q"


@dataclass(frozen=True, slots=True)
class World:
    """Good inputs.

    Args:
        path: Folder that holds them.
        options: Of ``predict``.
        config: A good configuration, as a tree.
    """

    path: Path
    options: tuple[Option, ...]
    config: dict[str, Any]

    @property
    def model(self) -> Path:
        """A model's folder."""
        return self.path / "model"

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()


def make_world(path: Path) -> World:
    """Write good inputs, in a child, so that this process stays as small as it is.

    Args:
        path: A folder that is not there yet.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _write(path)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the good inputs could not be made in {path}")
    config = {
        "trainer": {"accelerator": "cpu", "devices": 1, "strategy": {"class_path": "SingleDevice"}},
        "model": {
            "pipeline": str(path / "model"),
            "scheduler": {
                "class_path": "FifoQueue",
                "init_args": {"block_frames": 3, "context_frames": 2},
            },
            "noise": "SharedPool",
            "cache": {"class_path": "AnchorKV", "init_args": {"frames": 1}},
            "steps": 3,
            "sampler": {"scheduler": "UniPCMultistepScheduler", "options": {"solver_order": 2}},
            "lora": [{"path": str(path / "lora.safetensors"), "scale": 1.0}],
            "guidance_scale": 2.0,
        },
        "data": {
            "prompts": ["red shape", [{"at": 0, "text": "a"}, {"at": 1.5, "text": "b"}]],
            **{"num_frames": 37, "height": 32, "width": 48, "fps": 16, "seed": 0},
        },
        "video": {"format": "mp4", "zoom": 1},
        "output": "out",
        "overwrite": False,
    }
    return World(path, tuple(options("predict")), config)


def _write(path: Path) -> None:
    path.mkdir(parents=True)
    tiny_wan_folder(path / "model", shard_size="40KB")
    weights = _tensors(path / "model" / "transformer")
    shape = weights[f"{_LAYER}.weight"].shape
    save_file(
        {
            f"transformer.{_LAYER}.lora_A.weight": torch.randn(4, shape[1]),
            f"transformer.{_LAYER}.lora_B.weight": torch.randn(shape[0], 4),
            f"transformer.{_LAYER}.alpha": torch.tensor(4.0),
        },
        path / "lora.safetensors",
    )
    picture = Image.effect_noise((64, 48), 60).convert("RGB")
    for ending in ("png", "jpg", "webp", "gif", "bmp", "tif"):
        picture.save(path / f"picture.{ending}")
    torch.save({"generator": weights}, path / "checkpoint.pt")
    (path / "good.yaml").write_text(yaml.safe_dump({"model": {"pipeline": str(path / "model")}}))
    lines = ["red shape", "# comment", "blue shape"]
    (path / "prompts.txt").write_text("\n".join(lines))
    (path / "prompts.jsonl").write_text('{"prompt": "red", "seed": 3}\n{"prompt": "b", "fps": 8}\n')
    pipeline = ("--model.pipeline", str(path / "model"))
    main(["plan", *SMALL, *pipeline, "--actions", str(path / "plan.txt")])
    main(["predict", *SMALL, *pipeline, "--output", str(path / "made")])
    (path / "made" / "0000" / "video.mp4").rename(path / "video.mp4")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
