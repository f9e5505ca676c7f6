"""Open-Sora-Plan: equal to recorded outputs of its published forward.

Any other case folder (or a folder of them) is taken from the environment variable
LONGTAKE_REFERENCE_OPENSORA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longtake.models import BackboneSpec, Compression, Grid
from longtake.models.open_sora_plan import (
    OpenSoraPlanBackbone,
    OpenSoraPlanConfig,
    OpenSoraPlanTransformer,
)
from longtake.task import FrameRange
from longtake.testing.window import Run

CASES = Path(__file__).parents[3] / "cases"
TOLERANCE = 2e-5  # max abs, fp32: another CPU's exponential alone gives about 1e-5


def case_folders() -> list[Path]:
    root = Path(os.environ.get("LONGTAKE_REFERENCE_OPENSORA", CASES))
    files = [root / "case.json"] if (root / "case.json").is_file() else root.glob("*/case.json")
    models = {file.parent: json.loads(file.read_text()).get("model_class") for file in files}
    found = sorted(folder for folder, model in models.items() if model == "OpenSoraT2V_v1_3")
    assert found, f"no Open-Sora-Plan case in {root}"
    return found


cases = pytest.mark.parametrize("folder", case_folders(), ids=lambda folder: folder.name)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def load(folder: Path) -> OpenSoraPlanTransformer:
    config = json.loads((folder / "case.json").read_text())["config"]
    transformer = OpenSoraPlanTransformer(OpenSoraPlanConfig.read(config))
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    return transformer.eval()


@cases
def test_the_forward_is_the_published_one(folder: Path) -> None:
    found = load(folder)(**load_file(folder / "inputs.safetensors"))
    expected = load_file(folder / "expected.safetensors")["sample"]
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@cases
def test_the_backbone_is_the_published_forward(folder: Path) -> None:
    """Of videos without a mask, which is how the published pipeline makes them."""
    transformer, inputs = load(folder), load_file(folder / "inputs.safetensors")
    (frames, height, width), patch = (
        inputs["hidden_states"].shape[2:],
        transformer.config.patch_size,
    )
    lengths = (frames, height // patch, width // patch)
    scales = dict(zip(lengths, transformer.config.scales, strict=True))
    if tuple(scales[length] for length in lengths) != transformer.config.scales:
        pytest.skip("the published forward mixes up the scales of axes of the same length")
    expected = load_file(folder / "expected.safetensors")["sample"]
    rows = [row for row, mask in enumerate(inputs["attention_mask"]) if mask.all()]
    if not rows:
        pytest.skip("no video of the case is without a mask")
    for row in rows:
        found = predict(transformer, {name: x[row : row + 1] for name, x in inputs.items()})
        torch.testing.assert_close(found, expected[row : row + 1], rtol=0, atol=TOLERANCE)


def predict(transformer: OpenSoraPlanTransformer, inputs: dict[str, Tensor]) -> Tensor:
    """Run longtake's parts on one video."""
    config, latents = transformer.config, inputs["hidden_states"]
    spec = BackboneSpec(
        name="reference",
        channels=config.in_channels,
        patch=(1, config.patch_size, config.patch_size),
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        layers=config.num_layers,
        native_frames=24,
        compression=Compression(temporal=4, spatial=8),
        sparse="groups" if config.sparse1d else None,
    )
    backbone = OpenSoraPlanBackbone(spec, transformer, range(spec.layers))
    frames, height, width = latents.shape[2:]
    grid = Grid.of(FrameRange(0, frames), height=height, width=width)
    prompts = {
        "states": inputs["encoder_hidden_states"][:, 0],
        "mask": inputs["encoder_attention_mask"][:, 0].bool(),
    }
    return Run(backbone, grid, float(inputs["timestep"]), prompts).predict(latents)
