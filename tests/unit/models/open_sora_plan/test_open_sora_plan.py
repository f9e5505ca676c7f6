"""Open-Sora-Plan: its contracts, its loader and converter, its sampler, and runs in a queue."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, MT5EncoderModel

from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    open_folder,
)
from longtake.models.blank import BlankModel
from longtake.models.counting import count_flops
from longtake.models.open_sora_plan import OpenSoraPlanBackbone, OpenSoraPlanFamily, convert
from longtake.models.text import move_prompts
from longtake.task import FrameRange
from longtake.testing.contracts import BackboneContract
from longtake.testing.tiny.base import HEIGHT, LAYERS, WIDTH, tiny_masked_prompts
from longtake.testing.tiny.open_sora_plan import (
    published_forward,
    tiny_open_sora_plan_backbone,
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_spec,
    tiny_open_sora_plan_transformer,
    tiny_wavelet_vae,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ["red bird moves", ""]
SCALES: dict[str, Any] = {
    f"interpolation_scale_{axis}": 1.25 + i / 4 for i, axis in enumerate("thw")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"), shard_size="20KB")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def load(folder: ModelFolder, layers: Collection[int]) -> OpenSoraPlanBackbone:
    family = OpenSoraPlanFamily()
    return family.load_backbone(folder, family.spec(folder), layers, PLACE)


class TestOpenSoraPlanBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_open_sora_plan_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_masked_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return published_forward(tiny_open_sora_plan_transformer(), latents, timestep, prompts)

    def test_the_layers_are_of_all_kinds(self) -> None:
        groups = [self.load().token_groups(index) for index in range(LAYERS)]
        assert groups[:2] == [None, None]
        places = torch.arange(16)
        single, runs = (g.of(places).tolist() for g in groups[2:] if g is not None)
        assert single == [0, 1, 2, 3] * 4
        assert runs == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


class TestOpenSoraPlanBackboneFromDisk(TestOpenSoraPlanBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: ModelFolder) -> None:
        self.folder = folder

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return OpenSoraPlanFamily().encode_text(self.folder, PROMPTS, PLACE)


class TestPositionScales(TestOpenSoraPlanBackbone):
    """Of three axes of different length: the published code confuses those of the same."""

    height, width = 8, 4

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_open_sora_plan_backbone(range(LAYERS) if layers is None else layers, **SCALES)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        transformer = tiny_open_sora_plan_transformer(**SCALES)
        return published_forward(transformer, latents, timestep, prompts)


def test_the_spec_is_read_from_the_configuration(folder: ModelFolder) -> None:
    assert isinstance(family_of(folder), OpenSoraPlanFamily)
    name = f"{folder.path.name} (OpenSoraPlanPipeline)"
    assert OpenSoraPlanFamily().spec(folder) == replace(tiny_open_sora_plan_spec(), name=name)


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("transformer", {"activation_fn": "geglu"}, r"activation_fn is 'geglu'.*'gelu-approx"),
        ("transformer", {"attention_head_dim": 16}, r"attention_head_dim is 16.*multiple of 6"),
        ("transformer", {"out_channels": 8}, r"predicts 8 channels of latents that have 4"),
        ("transformer", {"sparse_n": None}, r"config.json lacks sparse_n"),
        ("transformer", {"vae_scale_factor_t": 8}, r"mask of 8 values per latent frame.*has 4"),
        (
            "vae",
            {"latent_dim": 8, "scale": [1] * 8, "shift": [0] * 8},
            r"latents of 8 channels \(latent_dim\).*takes 4",
        ),
        ("vae", {"norm_type": "groupnorm"}, r"norm_type is 'groupnorm'"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused(
    folder: ModelFolder, tmp_path: Path, component: str, changes: dict[str, Any], message: str
) -> None:
    parts = parts_of(folder)
    config = json.loads((parts[component] / "config.json").read_text()) | changes
    parts[component] = tmp_path / component
    parts[component].mkdir()
    config = {key: value for key, value in config.items() if value is not None}
    (parts[component] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        OpenSoraPlanFamily().spec(convert(**parts, target=tmp_path / "pipeline"))


def parts_of(folder: ModelFolder) -> dict[str, Path]:
    return {name: folder.path / name for name in ("transformer", "text_encoder", "vae")}


def test_another_vae_is_refused(folder: ModelFolder) -> None:
    index = folder.index | {"vae": ["diffusers", "AutoencoderKLWan"]}
    with pytest.raises(ModelError, match=r"is a AutoencoderKLWan, but.*is a WFVAEModel"):
        OpenSoraPlanFamily().spec(ModelFolder(folder.path, index))


def test_safetensors_are_linked(folder: ModelFolder, tmp_path: Path) -> None:
    parts = parts_of(folder)
    with pytest.raises(ModelError, match="exists already"):
        convert(**parts, target=folder.path)
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        convert(**parts | {"transformer": tmp_path}, target=tmp_path / "other")
    assert (folder.path / "transformer").is_symlink()
    assert (folder.path / "text_encoder").is_symlink()
    assert open_folder(str(folder.path)) == folder


def test_pickles_are_written_as_safetensors(folder: ModelFolder, tmp_path: Path) -> None:
    """The VAE's averaged weights out of its trainer's checkpoint, and mT5's whole state dict."""
    vae = folder.path / "vae"
    assert not vae.is_symlink()
    assert sorted(file.name for file in vae.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    state = load_file(vae / "diffusion_pytorch_model.safetensors")
    own = tiny_wavelet_vae().state_dict()
    assert own.keys() == state.keys(), "the wavelets' taps are no weights"
    assert all(torch.equal(state[key], tensor) for key, tensor in own.items())
    encoder = tmp_path / "mt5"
    encoder.mkdir()
    for file in (folder.path / "text_encoder").iterdir():
        if file.name != "model.safetensors":
            (encoder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder.path / "text_encoder" / "model.safetensors")
    torch.save(weights, encoder / "pytorch_model.bin")
    made = convert(**parts_of(folder) | {"text_encoder": encoder}, target=tmp_path / "pipeline")
    found, expected = (
        OpenSoraPlanFamily().encode_text(each, PROMPTS, PLACE)["states"] for each in (made, folder)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 1}, r"holds no plain state dict.*it holds epoch"),
        ({"state_dict": {"gen_model": Path("code")}}, r"asks for .*runs no code"),
    ],
    ids=str,
)
def test_a_checkpoint_without_a_vae_is_refused(
    folder: ModelFolder, tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    vae, target = tmp_path / "vae", tmp_path / "pipeline"
    vae.mkdir()
    (vae / "config.json").write_bytes((folder.path / "vae" / "config.json").read_bytes())
    torch.save(content, vae / "merged.ckpt")
    with pytest.raises(ModelError, match=message):
        convert(**parts_of(folder) | {"vae": vae}, target=target)
    assert not target.exists(), "half a folder is left"


@pytest.mark.parametrize("kept", ["state_dict", "state_dict.gen_model"])
def test_without_averaged_weights_the_last_ones_are_taken(
    folder: ModelFolder, tmp_path: Path, kept: str
) -> None:
    vae, state = tmp_path / "vae", tiny_wavelet_vae(seed=3).state_dict()
    vae.mkdir()
    (vae / "config.json").write_bytes((folder.path / "vae" / "config.json").read_bytes())
    entry: dict[str, Any] = {"gen_model": state} if "." in kept else dict(state)
    torch.save({"ema_state_dict": {}, "state_dict": entry}, vae / "merged.ckpt")
    made = convert(**parts_of(folder) | {"vae": vae}, target=tmp_path / "pipeline")
    written = load_file(made.path / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(written[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_held(folder: ModelFolder, layers: range) -> None:
    files = set(folder.weight_files("transformer").values())
    assert len(files) > 2
    stored = {key: tensor for file in files for key, tensor in load_file(file).items()}
    held = load(folder, layers)._transformer.state_dict()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in held.items())
    parts = [key.split(".") for key in held]
    assert {int(p[1]) for p in parts if p[0] == "transformer_blocks"} == set(layers)
    first = {"pos_embed"} if 0 in layers else set()
    last = {"scale_shift_table", "proj_out"} if LAYERS - 1 in layers else set()
    everywhere = {"transformer_blocks", "caption_projection", "adaln_single"}
    assert {p[0] for p in parts} == everywhere | first | last


def test_bf16_is_rounded_as_in_the_published_forward(
    folder: ModelFolder,
) -> None:
    place = Placement(CPU, torch.bfloat16)
    spec = OpenSoraPlanFamily().spec(folder)
    backbone = OpenSoraPlanFamily().load_backbone(folder, spec, range(LAYERS), place)
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH)
    prompts = move_prompts(tiny_masked_prompts(1), place)
    model = tiny_open_sora_plan_transformer().bfloat16()
    whole = published_forward(model, latents.bfloat16(), 900.0, prompts)
    grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
    found = Run(backbone, grid, 900.0, prompts).predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def test_operations_are_counted(folder: ModelFolder) -> None:
    family = OpenSoraPlanFamily()
    spec = family.spec(folder)
    work, dim, text = (
        count_flops(BlankModel.of(folder), HEIGHT, WIDTH),
        spec.model_dim,
        512,
    )
    # Four projections, two of cross-attention, feed-forward; cross-attention itself.
    assert work.layer == 2 * (4 + 2 + 8) * dim**2 + 4 * text * dim


def test_prompts_are_encoded_with_their_mask(folder: ModelFolder) -> None:
    prompts = ["a red bird", "", *["blue sea"] * 8]
    found = OpenSoraPlanFamily().encode_text(folder, prompts, PLACE)
    assert found["states"].shape[:2] == found["mask"].shape == (len(prompts), 512)
    assert found["mask"].sum(dim=1).tolist() == [4, 1, *[3] * 8]
    encoder = MT5EncoderModel.from_pretrained(folder.path / "text_encoder")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder.path / "tokenizer")
    for row, prompt in enumerate(prompts):
        # Alone and without padding, which the mask must have made no difference to.
        alone = encoder(**tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))
        states = found["states"][row, : alone.last_hidden_state.shape[1]]
        torch.testing.assert_close(states, alone.last_hidden_state[0], rtol=1e-5, atol=1e-6)
