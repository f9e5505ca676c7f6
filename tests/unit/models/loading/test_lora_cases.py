"""LoRA files as trainers have saved them, each of which has once been read wrongly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import ModelError
from longtake.framework import GenerationConfig
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.main import main
from longtake.models import Lora, Placement, open_folder
from longtake.models.loading.weights import load_module
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder

CASES = Path(__file__).parents[3] / "cases"
DEMO = ["--config", str(Path(__file__).parents[4] / "configs" / "demo.yaml"), "--model.steps", "4",
        "--data.num_frames", "33"]  # fmt: skip
PLACE = Placement(torch.device("cpu"), torch.float32)
WAN = {
    "self_attn": "attn1", "cross_attn": "attn2", "attn1.o": "attn1.to_out.0",
    "attn2.o": "attn2.to_out.0", "attn1.q": "attn1.to_q", "attn1.k": "attn1.to_k",
    "attn1.v": "attn1.to_v", "attn2.q": "attn2.to_q", "attn2.k": "attn2.to_k",
    "attn2.v": "attn2.to_v", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
    "head.head": "proj_out", "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
}  # fmt: skip
"""Names in Wan's own code, in the order in which they are replaced."""


def weights(path: str | Path, *loras: Lora, component: str = "transformer") -> dict[str, Tensor]:
    folder = open_folder(str(path), loras)
    hunyuan = folder.pipeline.startswith("Hunyuan")
    build: Any = HunyuanVideoTransformer3DModel if hunyuan else WanTransformer3DModel
    state: dict[str, Tensor] = load_module(folder, component, build.from_config, PLACE).state_dict()
    return state


def renamed(module: str) -> str:
    """Return diffusers' name of a module of Wan, without any table of longtake's."""
    for theirs, ours in WAN.items():
        module = re.sub(rf"{re.escape(theirs)}$|{re.escape(theirs)}(?=\.)", ours, module)
    return module


def products(file: Path, strength: float | None = None) -> dict[str, Tensor]:
    """Return what a file under Wan's own names adds, written out."""
    tensors = load_file(file)
    added = {}
    for key, up in tensors.items():
        module, found, _ = key.partition(".lora_B")
        if not found:
            module, found, _ = key.partition(".lora_up")
        if not found:
            continue
        down = next(
            tensors[f"{module}.lora_{part}"]
            for part in ("A.weight", "down.weight", "A.default.weight")
            if f"{module}.lora_{part}" in tensors
        )
        alpha = float(tensors.get(f"{module}.alpha", torch.tensor(len(down))))
        name = module.removeprefix("diffusion_model.")
        added[f"{renamed(name)}.weight"] = alpha / len(down) * up @ down
    return added


def assert_added(path: str | Path, lora: Lora, added: dict[str, Tensor], **options: Any) -> None:
    before, after = weights(path, **options), weights(path, lora, **options)
    for key, tensor in after.items():
        if key not in added:
            assert torch.equal(tensor, before[key]), key
            continue
        torch.testing.assert_close(tensor, before[key] + added[key], rtol=1e-5, atol=1e-5, msg=key)
        assert not torch.equal(tensor, before[key]), key
    assert added.keys() <= after.keys()


def test_a_module_with_a_difference_of_its_bias_alone(tmp_path: Path) -> None:
    file = CASES / "lora-bias-only-module" / "x.safetensors"
    tensors = load_file(file)
    biases = {key: tensor for key, tensor in tensors.items() if key.endswith(".diff_b")}
    added = products(file) | {
        f"{renamed(key.removeprefix('diffusion_model.').removesuffix('.diff_b'))}.bias": tensor
        for key, tensor in biases.items()
    }
    assert "blocks.0.ffn.net.2.bias" in added
    assert len(added) == (len(tensors) - len(biases)) // 2 + len(biases)
    assert_added(tiny_wan_folder(tmp_path / "tiny").path, Lora(path=str(file)), added)


def test_names_of_diffsynth_studio() -> None:
    file = CASES / "lora-diffsynth-names" / "diffsynth.safetensors"
    added = products(file)
    assert len(added) == 8
    assert_added("demo", Lora(path=str(file)), added)


def test_alpha_of_embedders_and_of_the_head(tmp_path: Path) -> None:
    file = CASES / "lora-embedder-alpha" / "x.safetensors"
    added = products(file)
    assert {"condition_embedder.time_proj.weight", "proj_out.weight"} <= added.keys()
    assert len(added) == len(load_file(file)) // 3
    assert_added(tiny_wan_folder(tmp_path / "tiny").path, Lora(path=str(file)), added)


@pytest.mark.parametrize(
    ("name", "parts"), [("hy_comfy_alpha", ("A", "B")), ("hy_kohya", ("down", "up"))]
)
def test_fused_queries_keys_and_values_with_an_alpha(
    tmp_path: Path, name: str, parts: tuple[str, str]
) -> None:
    file = CASES / "lora-hunyuan-qkv-alpha" / f"{name}.safetensors"
    tensors = {key.partition("qkv.")[2]: tensor for key, tensor in load_file(file).items()}
    down, up = (tensors[f"lora_{part}.weight"] for part in parts)
    added = {
        f"transformer_blocks.0.attn.to_{part}.weight": 0.5 * rows @ down
        for part, rows in zip("qkv", up.chunk(3), strict=True)
    }
    assert_added(tiny_hunyuan_folder(tmp_path / "tiny").path, Lora(path=str(file)), added)


def test_names_of_musubi_tuner_attention_alone() -> None:
    file = CASES / "lora-kohya-partial" / "kohya_attn.safetensors"
    tensors = load_file(file)
    added = {
        f"blocks.{layer}.attn1.to_{'out.0' if part == 'o' else part}.weight": 0.5
        * tensors[f"lora_unet_blocks_{layer}_self_attn_{part}.lora_up.weight"]
        @ tensors[f"lora_unet_blocks_{layer}_self_attn_{part}.lora_down.weight"]
        for layer in range(8)
        for part in "qkvo"
    }
    assert len(added) == len(tensors) // 3
    assert_added("demo", Lora(path=str(file)), added)


def test_the_header_gives_each_expert_its_own_alpha(tmp_path: Path) -> None:
    file = CASES / "lora-second-expert-header" / "x.safetensors"
    path, tensors = tiny_wan_folder(tmp_path / "tiny", experts=2).path, load_file(file)
    for component, strength in (("transformer", 1.0), ("transformer_2", 2.0)):
        key = component + ".blocks.{}.attn1.to_q.lora_{}.weight"
        added = {
            f"blocks.{layer}.attn1.to_q.weight": strength
            * tensors[key.format(layer, "B")]
            @ tensors[key.format(layer, "A")]
            for layer in range(4)
        }
        for chosen in ("transformer", "transformer_2"):
            lora = Lora(path=str(file), component=chosen)
            assert_added(path, lora, added, component=component)


def test_wan_21_image_to_video_on_wan_22(tmp_path: Path) -> None:
    file = CASES / "lora-wan21-i2v-on-wan22-i2v" / "x.safetensors"
    path = tiny_wan_i2v_folder(tmp_path / "tiny", experts=2).path

    def model(**options: Any) -> ResolvedModel:
        generation_config = GenerationConfig(
            pipeline=str(path), lora=Lora(path=str(file), **options)
        )
        return ResolvedModel(generation_config, PLACE)

    refusal = r"cross_attn\.k_img\.lora_A\.weight \(and 7 other modules\) .* missing: skip merges"
    with pytest.raises(ModelError, match=refusal):
        model()
    (said,) = model(missing="skip").skipped
    assert "changes 8 modules that the transformer lacks; they are skipped" in said
    assert "diffusion_model.blocks.*.cross_attn.k_img.lora_A.weight (4)" in said
    assert "diffusion_model.blocks.*.cross_attn.v_img.lora_A.weight (4)" in said
    added = {key: tensor for key, tensor in products(file).items() if "_img" not in key}
    assert len(added) == len(load_file(file)) // 2 - 8
    assert_added(path, Lora(path=str(file), missing="skip"), added)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*args])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "plan"])
def test_a_lora_of_another_model_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    file, out = CASES / "lora-wrong-model-late" / "bad_lora.safetensors", tmp_path / "out"
    output = ["--output", str(out)] if command == "predict" else []
    said = refused(capsys, command, *DEMO, *output, "--model.lora", str(file))
    assert re.search(r"the key diffusion_model\.blocks\.\d\d\.self_attn\.q\.lora_A\.weight", said)
    assert "(and 21 other modules)" in said
    assert "bad_lora.safetensors matches no module of the transformer" in said
    assert not out.exists()


@pytest.mark.parametrize("command", ["predict", "plan"])
@pytest.mark.parametrize("scale", [".nan", ".inf", "-.inf"])
def test_a_scale_that_is_not_finite_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, scale: str
) -> None:
    file, out = CASES / "lora-diffsynth-names" / "diffsynth.safetensors", tmp_path / "out"
    lora = f"[{{path: {file}, scale: {scale}}}]"
    output = ["--output", str(out)] if command == "predict" else []
    said = refused(capsys, command, *DEMO, *output, "--model.lora", lora)
    assert "the scale of the LoRA" in said
    assert "must be a finite number" in said
    assert not out.exists()


def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tensors = load_file(CASES / "lora-diffsynth-names" / "diffsynth.safetensors")
    key, file = "blocks.3.self_attn.q.lora_B.default.weight", tmp_path / "nan.safetensors"
    tensors[key][5, 1] = float("nan")
    save_file(tensors, file)
    out = tmp_path / "out"
    said = refused(capsys, "predict", *DEMO, "--output", str(out), "--model.lora", str(file))
    assert f"the tensor {key} in {file} holds numbers that are not finite" in said
    assert not out.exists()


def test_a_repeated_option_makes_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*values: str) -> str:
        with pytest.raises(SystemExit):
            main(["predict", "--print_config", *values])
        return capsys.readouterr().out

    two = printed("--model.lora", "a", "--model.lora={path: b, scale: 0.5, missing: skip}")
    assert "  lora:\n  - a\n  - path: b\n    scale: 0.5\n    component: transformer\n" in two
    assert "    scale_2: null\n    missing: skip\n" in two
    assert "  lora:\n    path: b\n    scale: 0.5\n" in printed(
        "--model.lora", "{path: b, scale: 0.5}"
    )
    three = printed("--model.lora", "[a, b]", "--model.lora", "c")
    assert "  lora:\n  - a\n  - b\n  - c\n" in three


def test_an_option_that_there_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"

    def written(value: object) -> str:
        config.write_text(json.dumps({"model": {"lora": value}}))
        return refused(capsys, "predict", *DEMO, "--config", str(config))

    assert "no option strength" in written([{"path": "a", "strength": 1.0}])
    assert "further options are component, scale_2 and missing" in written(5)
    typed = refused(capsys, "predict", *DEMO, "--model.lora", "{path: a, strength: 1.0}")
    assert "no option strength" in typed
    with pytest.raises(ModelError, match="its options are path, scale, component, scale_2"):
        Lora(path="{path: a").find()
