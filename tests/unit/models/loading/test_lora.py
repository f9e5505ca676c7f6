"""LoRA files merged into the weights: what diffusers and peft make of the same files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    HunyuanVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.caches import NoCache
from longtake.errors import ModelError
from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.main import main
from longtake.framework.module import VideoModule
from longtake.models import Lora, Placement, open_folder
from longtake.models.loading.lora import file as lora_file
from longtake.models.loading.weights import load_module
from longtake.noise import Independent, NoiseSource
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TOKENS,
    tiny_wan_folder,
    tiny_wan_transformer,
)
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder

PLACE = Placement(torch.device("cpu"), torch.float32)
RANK = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny", experts=2).path


def random_lora(*modules: str, seed: int = 0, prefix: str = "transformer.") -> dict[str, Tensor]:
    """Return LoRA tensors of Wan modules, under diffusers' names."""
    weights = tiny_wan_transformer().state_dict()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        out, *inputs = weights[f"{module}.weight"].shape
        kernel = (1,) * (len(inputs) - 1)
        for name, shape in {"A": (RANK, *inputs), "B": (out, RANK, *kernel)}.items():
            values = torch.randn(shape, generator=generator)
            tensors[f"{prefix}{module}.lora_{name}.weight"] = values
    return tensors


LINEAR = [
    *(f"blocks.{i}.attn1.to_{part}" for i in range(LAYERS) for part in ("q", "k", "v", "out.0")),
    *(f"blocks.{i}.attn2.to_{part}" for i in range(LAYERS) for part in ("q", "v")),
    *(f"blocks.{i}.ffn.net.0.proj" for i in range(LAYERS)),
    "condition_embedder.time_proj",
    "proj_out",
]


def saved(tensors: dict[str, Tensor], folder: Path, **header: Any) -> Path:
    folder.mkdir(parents=True)
    metadata = {key: json.dumps(value) for key, value in header.items()}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata or None)
    return folder


def loaded(
    path: Path,
    *loras: Lora,
    component: str = "transformer",
    layers: Collection[int] = range(LAYERS),
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Return the weights that a rank with some layers reads."""

    def prune(transformer: Any) -> None:
        for index in set(range(LAYERS)).difference(layers):
            transformer.blocks[index] = nn.Identity()

    folder = open_folder(str(path), loras)
    build, place = WanTransformer3DModel.from_config, Placement(PLACE.device, dtype)
    state: dict[str, Tensor] = load_module(
        folder, component, build, place, prune=prune
    ).state_dict()
    return state


def fused(path: Path, lora: Path, scale: float = 1.0, **options: Any) -> WanPipeline:
    """Return diffusers' pipeline with a LoRA of its own loading fused in."""
    pipeline = WanPipeline.from_pretrained(path)
    pipeline.load_lora_weights(str(lora), **options)
    parts = ["transformer_2" if options.get("load_into_transformer_2") else "transformer"]
    pipeline.fuse_lora(components=parts, lora_scale=scale)
    pipeline.unload_lora_weights()
    return pipeline


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("scale", [1.0, -0.4])
def test_weights_are_those_of_the_fused_pipeline(path: Path, tmp_path: Path, scale: float) -> None:
    folder = saved(random_lora(*LINEAR), tmp_path / "lora")
    oracle = fused(path, folder, scale).transformer
    found = loaded(path, Lora(path=str(folder), scale=scale))
    assert_equal(found, oracle.state_dict())
    plain = loaded(path)
    changed = {key for key in found if not torch.equal(found[key], plain[key])}
    assert changed == {f"{module}.weight" for module in LINEAR}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_video_is_that_of_the_fused_pipeline(path: Path, tmp_path: Path, guidance: float) -> None:
    scheduler = FullSequence()
    source = NoiseSource(seed=0, channels=CHANNELS, height=4, width=6)
    noise = next(iter(Independent().blocks(source, scheduler.blocks(3))))
    high, low = (saved(random_lora(*LINEAR, seed=seed), tmp_path / f"{seed}") for seed in range(2))
    pipeline = fused(path, high, 0.3)
    pipeline.transformer_2 = fused(path, low, 0.2, load_into_transformer_2=True).transformer_2
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt="red shape",
        negative_prompt="slow",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise,
        output_type="latent",
        max_sequence_length=TOKENS,
    ).frames
    generation_config = GenerationConfig(
        pipeline=str(path),
        scheduler=scheduler,
        noise=Independent(),
        cache=NoCache(),
        steps=4,
        guidance_scale=guidance,
        dtype="float32",
        lora=[
            Lora(path=str(high), scale=0.3),
            Lora(path=str(low), scale=0.2, component="transformer_2"),
        ],
    )
    prompts = (PromptAt(text="red shape"),)
    request = Request(prompts=prompts, negative_prompt="slow", num_frames=9, height=32, width=48)

    def made(chosen: GenerationConfig) -> Tensor:
        events = list(Engine(chosen, SingleDevice()).generate(request))
        return next(event.latents for event in events if isinstance(event, BlockDone))

    found = made(generation_config)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert not torch.allclose(found, made(replace(generation_config, lora=None)), rtol=0.1)


def test_the_header_of_diffusers_says_how_strong_it_is(path: Path, tmp_path: Path) -> None:
    modules = ["blocks.0.attn1.to_q", "blocks.2.attn2.to_v"]
    settings = {"r": RANK, "lora_alpha": 6, "target_modules": modules}
    header = {f"transformer.{key}": value for key, value in settings.items()}
    folder = saved(random_lora(*modules), tmp_path / "lora", lora_adapter_metadata=header)
    oracle = fused(path, folder).transformer.state_dict()
    assert_equal(loaded(path, Lora(path=str(folder))), oracle)
    weak = saved(random_lora(*modules), tmp_path / "weak")
    assert not torch.allclose(
        loaded(path, Lora(path=str(weak)))["blocks.0.attn1.to_q.weight"],
        oracle["blocks.0.attn1.to_q.weight"],
    )


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_of_peft(path: Path, tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    transformer = WanTransformer3DModel.from_pretrained(path / "transformer")
    config = LoraConfig(
        r=RANK,
        lora_alpha=5,
        target_modules=["attn1.to_q", "ffn.net.2", "patch_embedding"],
        alpha_pattern={"ffn.net.2": 2},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    model = get_peft_model(transformer, config)
    model.save_pretrained(tmp_path / "lora")
    found = loaded(path, Lora(path=str(tmp_path / "lora")))
    assert_equal(found, model.merge_and_unload().state_dict())


def original_names(tensors: dict[str, Tensor], *, alpha: float | None) -> dict[str, Tensor]:
    """Return a LoRA under the names of Wan's own code, as its trainers save it."""
    renamed = {
        "transformer.": "diffusion_model.", "attn1.to_out.0": "self_attn.o",
        "attn2.to_out.0": "cross_attn.o", "attn1.to_": "self_attn.", "attn2.to_": "cross_attn.",
        "ffn.net.0.proj": "ffn.0", "proj_out": "head.head",
        "condition_embedder.time_proj": "time_projection.1",
    }  # fmt: skip
    found = {}
    for key, tensor in tensors.items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        found[key] = tensor
        if alpha is not None and "self_attn" in key:
            module = key.rpartition(".lora_")[0]
            found[f"{module}.alpha"] = torch.tensor(alpha)
    return found


@pytest.mark.parametrize("alpha", [None, 7.5])
def test_original_names_mean_what_diffusers_reads_in_them(
    path: Path, tmp_path: Path, alpha: float | None
) -> None:
    tensors = original_names(random_lora(*LINEAR), alpha=alpha)
    tensors["diffusion_model.blocks.1.self_attn.q.diff_b"] = torch.randn(24)
    folder = saved(tensors, tmp_path / "lora")
    oracle = fused(path, folder).transformer.state_dict()
    found = loaded(path, Lora(path=str(folder)))
    assert_equal(found, oracle)
    assert not torch.equal(
        found["blocks.1.attn1.to_q.bias"], loaded(path)["blocks.1.attn1.to_q.bias"]
    )


def test_queries_keys_and_values_of_one_tensor_are_taken_apart(tmp_path: Path) -> None:
    path = tiny_hunyuan_folder(tmp_path / "model").path
    plain = HunyuanVideoTransformer3DModel.from_pretrained(path / "transformer")
    dim = plain.config.num_attention_heads * plain.config.attention_head_dim
    name = "diffusion_model.double_blocks.0.img_attn_qkv.lora_{}.weight"
    a, b = torch.randn(RANK, dim), torch.randn(3 * dim, RANK)
    folder = saved({name.format("A"): a, name.format("B"): b}, tmp_path / "lora")
    found = load_module(
        open_folder(str(path), [Lora(path=str(folder))]),
        "transformer",
        HunyuanVideoTransformer3DModel.from_config,
        PLACE,
    )
    for part, up in zip("qkv", b.chunk(3), strict=True):
        key = f"transformer_blocks.0.attn.to_{part}.weight"
        torch.testing.assert_close(found.state_dict()[key], plain.state_dict()[key] + up @ a)


def test_each_expert_has_its_own(path: Path, tmp_path: Path) -> None:
    modules = LINEAR[:3]
    high = saved(random_lora(*modules, seed=1), tmp_path / "high")
    low = saved(random_lora(*modules, seed=2), tmp_path / "low")
    loras = [Lora(path=str(high)), Lora(path=str(low), component="transformer_2")]
    assert_equal(loaded(path, *loras), fused(path, high).transformer.state_dict())
    second = fused(path, low, load_into_transformer_2=True).transformer_2.state_dict()
    assert_equal(loaded(path, *loras, component="transformer_2"), second)
    both = random_lora(*modules, seed=1) | random_lora(*modules, seed=2, prefix="transformer_2.")
    together = Lora(path=str(saved(both, tmp_path / "both")))
    assert_equal(loaded(path, together, component="transformer_2"), second)


def test_several_add_up(path: Path, tmp_path: Path) -> None:
    parts = [saved(random_lora(*LINEAR, seed=seed), tmp_path / f"{seed}") for seed in range(2)]
    loras = [
        Lora(path=str(part), scale=scale) for part, scale in zip(parts, (0.5, 2.0), strict=True)
    ]
    plain = loaded(path)
    first, second, both = loaded(path, loras[0]), loaded(path, loras[1]), loaded(path, *loras)
    assert_equal(both, {key: first[key] + second[key] - plain[key] for key in plain})


def test_the_change_is_added_before_weights_are_rounded(path: Path, tmp_path: Path) -> None:
    lora = Lora(path=str(saved(random_lora(*LINEAR), tmp_path / "lora")))
    full, half = loaded(path, lora), loaded(path, lora, dtype=torch.bfloat16)
    assert all(torch.equal(half[key], full[key].bfloat16()) for key in full)


@pytest.mark.parametrize("alpha", [None, 7.5])
def test_stages_hold_what_the_whole_holds(path: Path, tmp_path: Path, alpha: float | None) -> None:
    tensors = original_names(random_lora(*LINEAR), alpha=alpha)
    lora = Lora(path=str(saved(tensors, tmp_path / "lora")))
    whole = loaded(path, lora)
    stages = [loaded(path, lora, layers=range(2)), loaded(path, lora, layers=range(2, LAYERS))]
    for stage in stages:
        assert all(torch.equal(stage[key], whole[key]) for key in stage)
    assert stages[0].keys() | stages[1].keys() == whole.keys()


@pytest.mark.parametrize("alpha", [None, 7.5])
def test_a_rank_reads_nothing_of_other_layers(
    path: Path, tmp_path: Path, alpha: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = original_names(random_lora(*LINEAR), alpha=alpha)
    lora = Lora(path=str(saved(tensors, tmp_path / "lora")))
    read: list[str] = []

    class Watched:
        """A safetensors file that notes which tensors are read."""

        def __init__(self, file: Path, framework: str) -> None:
            self._file = safe_open(file, framework=framework)

        def __enter__(self) -> Watched:
            self._reader = self._file.__enter__()  # type: ignore[no-untyped-call]
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.__exit__(*error)  # type: ignore[no-untyped-call]

        def get_tensor(self, key: str) -> Tensor:
            read.append(key)
            tensor: Tensor = self._reader.get_tensor(key)
            return tensor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._reader, name)

    monkeypatch.setattr(lora_file, "safe_open", Watched)
    loaded(path, lora, layers=range(2))
    numbers = {
        int(found[1])
        for key in read
        if (found := re.search(r"blocks\.(\d+)", key)) and not key.endswith(".alpha")
    }
    assert numbers == {0, 1}
    assert any("time_projection" in key for key in read), "what is outside the layers"


def test_what_is_no_lora_is_refused_before_anything_is_loaded(path: Path, tmp_path: Path) -> None:
    def refused(**lora: Any) -> str:
        with pytest.raises(ModelError) as error:
            open_folder(str(path), [Lora(**lora)])
        return str(error.value)

    assert "'/none/at/all', but there is no such folder or file" in refused(path="/none/at/all")
    (tmp_path / "pytorch_lora_weights.bin").touch()
    empty = refused(path=str(tmp_path))
    assert re.search(r"a folder of 0 safetensors files without pytorch_lora_weights", empty)
    assert "no safetensors file" in refused(path=str(tmp_path / "pytorch_lora_weights.bin"))
    model = path / "vae" / "diffusion_pytorch_model.safetensors"
    assert "tensors, but no LoRA" in refused(path=str(model))
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"version https://git-lfs")
    assert "no whole safetensors file" in refused(path=str(tmp_path))
    good = saved(random_lora("proj_out"), tmp_path / "good")
    wrong = refused(path=str(good), component="transformer_3")
    assert "'transformer_3', which the model lacks; the nearest is transformer_2" in wrong


def test_a_key_that_matches_no_module_is_named_with_the_nearest(path: Path, tmp_path: Path) -> None:
    tensors = random_lora("proj_out")
    tensors["transformer.blocks.9.attn1.to_q.lora_A.weight"] = torch.zeros(RANK, 24)
    lora = Lora(path=str(saved(tensors, tmp_path / "lora")))
    expected = (
        r"key transformer\.blocks\.9\.attn1\.to_q\.lora_A\.weight in .*weights\.safetensors "
        r"matches no module of the transformer; the nearest module is blocks\.\d\.attn1\.to_q\."
    )
    for layers in (range(2), range(2, LAYERS)):
        with pytest.raises(ModelError, match=expected):
            loaded(path, lora, layers=layers)


def test_a_tensor_of_another_shape_is_named_with_both(path: Path, tmp_path: Path) -> None:
    tensors = random_lora("blocks.3.attn1.to_q")
    key = "transformer.blocks.3.attn1.to_q.lora_A.weight"
    tensors[key] = torch.zeros(RANK, 40)
    lora = Lora(path=str(saved(tensors, tmp_path / "lora")))
    expected = re.escape(f"tensor {key} in ") + r".*shape \(3, 40\), but blocks\.3\.attn1\.to_q .*"
    with pytest.raises(ModelError, match=expected + r"asks for \(3, 24\)"):
        loaded(path, lora, layers=range(2))  # also where the layer is not


def test_other_parts_of_other_methods_are_refused(path: Path, tmp_path: Path) -> None:
    other = random_lora("proj_out") | {"transformer.proj_out.weight": torch.ones(16)}
    with pytest.raises(ModelError, match=r"proj_out\.weight in .* is no part of a LoRA"):
        loaded(path, Lora(path=str(saved(other, tmp_path / "other"))))
    half = random_lora("proj_out")
    del half["transformer.proj_out.lora_B.weight"]
    with pytest.raises(ModelError, match=r"lora_A\.weight, but not both"):
        loaded(path, Lora(path=str(saved(half, tmp_path / "half"))))
    strange = {"diffusion_model.what.lora_A.weight": torch.ones(3, 3)}
    with pytest.raises(ModelError, match=r"what\.lora_A\.weight in .* matches no module"):
        loaded(path, Lora(path=str(saved(strange, tmp_path / "strange"))))


def test_the_command_line_takes_one_or_several(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    def printed(value: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["predict", "--print_config", "--model.lora", value])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "  lora: some/folder\n" in printed("some/folder")
    several = printed("[{path: a, scale: 0.5}, {path: b, component: transformer_2}]")
    expected = "  lora:\n  - path: a\n    scale: 0.5\n    component: transformer\n"
    assert expected in several
    assert VideoModule("demo", lora="a").generation_config.loras == (Lora(path="a"),)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model.pipeline", str(path), "--data.prompts", "x", "--output",
              str(path / "out"), "--model.lora", "./none"])  # fmt: skip
    assert ended.value.code == 2
    assert "model.lora is './none', but there is no such folder" in capsys.readouterr().err
