"""Wan: the contracts of its backbone and decoder, and its loader."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longtake.errors import ModelError
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    BackboneSpec,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    open_folder,
)
from longtake.models.loading import weights
from longtake.models.text import move_prompts
from longtake.models.wan import WanBackbone, WanDecoder, WanFamily
from longtake.task import FrameRange
from longtake.testing.contracts import BackboneContract, VideoDecoderContract
from longtake.testing.tiny.base import (
    BOUNDARY,
    LAYERS,
    tiny_prompts,
    tiny_wan_backbone,
    tiny_wan_folder,
    tiny_wan_spec,
    tiny_wan_transformer,
    tiny_wan_vae,
    wan_pictures,
)
from longtake.testing.window import Run

CPU = torch.device("cpu")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("wan21"))


@pytest.fixture(scope="module")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(
        tmp_path_factory.mktemp("wan22"), experts=2, sampler="FlowMatchEulerDiscreteScheduler"
    )


@pytest.fixture
def broken(tmp_path: Path) -> ModelFolder:
    """A folder of its own, to be broken by the test."""
    return tiny_wan_folder(tmp_path / "broken")


def load(
    folder: ModelFolder,
    layers: Collection[int] = range(LAYERS),
    dtype: torch.dtype = torch.float32,
) -> WanBackbone:
    family = WanFamily()
    return family.load_backbone(folder, family.spec(folder), layers, Placement(CPU, dtype))


def held(backbone: WanBackbone) -> dict[str, Tensor]:
    """Return the tensors of a backbone's (first) transformer by name."""
    expert: nn.Module = backbone._experts[0]
    return expert.state_dict()


class TestWanBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_wan_backbone(range(LAYERS) if layers is None else layers)

    def prompts(self) -> PromptStates:
        return tiny_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_wan_transformer(), latents, timestep, prompts)


class TestWanBackboneOfTwoExperts(TestWanBackbone):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_wan_backbone(range(LAYERS) if layers is None else layers, experts=2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        noisy = timestep >= BOUNDARY * 1000
        return forward(tiny_wan_transformer(0 if noisy else 1), latents, timestep, prompts)


class TestWanBackboneFromDisk(TestWanBackbone):
    @pytest.fixture(autouse=True)
    def _folder(self, wan21: ModelFolder) -> None:
        self.folder = wan21

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return load(self.folder, range(LAYERS) if layers is None else layers)


def forward(transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
    steps = torch.full((len(latents),), timestep)
    out: Tensor = transformer(latents, steps, prompts["states"], return_dict=False)[0]
    return out


@pytest.mark.usefixtures("upsampling_keeps_float64")
class TestWanDecoder(VideoDecoderContract):
    bit_equal = ((5,),)  # at once, every call is one of diffusers' own

    def spec(self) -> BackboneSpec:
        return tiny_wan_spec()

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return WanDecoder(tiny_wan_vae().to(dtype))

    def oracle(self, latents: Tensor) -> Tensor:
        return wan_pictures(tiny_wan_vae(), latents)


class TestWanDecoderFromDisk(TestWanDecoder):
    @pytest.fixture(autouse=True)
    def _folder(self, wan21: ModelFolder) -> None:
        self.folder = wan21

    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        return WanFamily().load_decoder(self.folder, CPU, dtype)


def test_the_spec_is_read_from_the_configuration(wan21: ModelFolder, wan22: ModelFolder) -> None:
    for folder, experts in ((wan21, 1), (wan22, 2)):
        assert isinstance(family_of(folder), WanFamily)
        spec, tiny = WanFamily().spec(folder), tiny_wan_spec(experts)
        assert spec.name == f"{folder.path.name} (WanPipeline)"
        for field in ("channels", "patch", "heads", "head_dim", "layers", "compression"):
            assert getattr(spec, field) == getattr(tiny, field), field
        assert (spec.experts, spec.boundary) == (tiny.experts, tiny.boundary)
        assert spec.train_timesteps == 1000


@pytest.mark.parametrize("layers", [range(2), range(1, 3), range(3, 4)], ids=str)
def test_only_what_a_rank_needs_is_read(
    wan21: ModelFolder, layers: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Spy:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._file: Any = safe_open(*arguments, **options)

        def __enter__(self) -> Spy:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def keys(self) -> list[str]:
            return list(self._file.keys())

        def get_tensor(self, key: str) -> Tensor:
            read.append(key)
            tensor: Tensor = self._file.get_tensor(key)
            return tensor

    monkeypatch.setattr(weights, "safe_open", Spy)
    backbone = load(wan21, layers)
    assert sorted(read) == sorted(held(backbone)), "what is read is what is held"
    assert {int(key.split(".")[1]) for key in read if key.startswith("blocks.")} == set(layers)
    rest = {key.split(".")[0] for key in read} - {"blocks", "condition_embedder"}
    first = {"patch_embedding"} if 0 in layers else set()
    last = {"proj_out", "scale_shift_table"} if LAYERS - 1 in layers else set()
    assert rest == first | last


def test_modules_that_need_fp32_keep_it(wan21: ModelFolder) -> None:
    """Whatever diffusers itself keeps in fp32 when it loads in bf16."""
    expected = WanTransformer3DModel.from_pretrained(
        wan21.path / "transformer", torch_dtype=torch.bfloat16
    )
    backbone = load(wan21, dtype=torch.bfloat16)
    dtypes = {key: value.dtype for key, value in held(backbone).items()}
    assert dtypes == {key: value.dtype for key, value in expected.state_dict().items()}
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    with torch.no_grad():
        latents = torch.randn(1, 4, 3, 4, 6)
        prompts = move_prompts(tiny_prompts(1), Placement(CPU, torch.bfloat16))
        whole = forward(expected, latents.bfloat16(), 900.0, prompts)
        found = one_forward(backbone, latents, 900.0, prompts)
    # The same bf16 weights; rotary positions are rounded otherwise, by one bf16 step (2 ** -8).
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def one_forward(
    backbone: WanBackbone, latents: Tensor, timestep: float, text: PromptStates
) -> Tensor:
    grid = Grid.of(FrameRange(0, latents.shape[2]), height=4, width=6)
    return Run(backbone, grid, timestep, text).predict(latents)


def test_shards_hold_the_same_model(wan21: ModelFolder, tmp_path: Path) -> None:
    sharded = tiny_wan_folder(tmp_path, shard_size="20KB")
    files = sharded.weight_files("transformer")
    assert len(set(files.values())) > 2
    found, expected = held(load(sharded)), held(load(wan21))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_missing_tensor_is_named(broken: ModelFolder) -> None:
    state = load_file(broken.path / WEIGHTS)
    del state["blocks.2.attn1.to_q.weight"]
    save_file(state, broken.path / WEIGHTS)
    with pytest.raises(ModelError, match=r"safetensors lacks .*blocks\.2\.attn1\.to_q\.weight"):
        load(broken)
    with pytest.raises(ModelError, match=r"lacks"):  # every rank refuses the same
        load(broken, range(2))


def test_a_tensor_that_the_index_of_shards_lacks_is_named(tmp_path: Path) -> None:
    folder = tiny_wan_folder(tmp_path, shard_size="20KB")
    file = next((tmp_path / "transformer").glob("*.index.json"))
    index = json.loads(file.read_text())
    del index["weight_map"]["proj_out.weight"]
    file.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index in .*transformer lacks .*proj_out\.weight"):
        load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(broken: ModelFolder) -> None:
    state = load_file(broken.path / WEIGHTS)
    state["proj_out.weight"] = torch.zeros(3, 5)
    save_file(state, broken.path / WEIGHTS)
    with pytest.raises(
        ModelError, match=r"proj_out\.weight in .*safetensors has shape \(3, 5\).*\(16, 24\)"
    ):
        load(broken)


def test_pickled_weights_are_refused(broken: ModelFolder) -> None:
    (broken.path / WEIGHTS).rename(broken.path / "transformer/diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.bin, a pickle"):
        load(broken)


def change_index(folder: ModelFolder, **changes: Any) -> ModelFolder:
    (folder.path / "model_index.json").write_text(json.dumps(folder.index | changes))
    return open_folder(str(folder.path))


def test_folders_that_cannot_be_run_are_refused(broken: ModelFolder) -> None:
    with pytest.raises(ModelError, match="a WanAnimatePipeline, which is not registered"):
        family_of(change_index(broken, _class_name="WanAnimatePipeline"))
    with pytest.raises(ModelError, match=r"has 1 transformer\(s\) and boundary_ratio 0\.9"):
        WanFamily().spec(change_index(broken, boundary_ratio=0.9))
