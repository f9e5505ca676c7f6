"""LoRA formats: names, parts and strengths of every trainer, against sums written out here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from longtake.errors import ConfigurationError, ModelError
from longtake.models import Lora, Placement, family_of, open_folder
from longtake.models.loading.lora import ModelNames, Swapped
from longtake.models.loading.weights import load_module
from longtake.testing.tiny.base import tiny_wan_folder, tiny_wan_transformer
from longtake.testing.tiny.cogvideox import tiny_cogvideox_transformer
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder, tiny_hunyuan_transformer
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_transformer
from longtake.testing.tiny.ltx import tiny_ltx_transformer
from longtake.testing.tiny.mochi import tiny_mochi_transformer
from longtake.testing.tiny.open_sora_plan import tiny_open_sora_plan_transformer
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_transformer

PLACE = Placement(torch.device("cpu"), torch.float32)
RANK, SIZE = 3, 24
Q, OUT = "blocks.0.attn1.to_q", "blocks.2.attn1.to_out.0"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny", experts=2).path


@pytest.fixture(scope="module")
def plain(path: Path) -> Weights:
    return loaded(path)


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hunyuan_folder(tmp_path_factory.mktemp("model") / "tiny").path


def loaded(path: Path, *loras: Lora, component: str = "transformer", **options: Any) -> Weights:
    folder = open_folder(str(path), loras)
    if "report" in options:
        object.__setattr__(folder, "report", options["report"])
    build: Callable[[dict[str, Any]], nn.Module] = {
        "WanTransformer3DModel": tiny_wan_transformer,
        "HunyuanVideoTransformer3DModel": tiny_hunyuan_transformer,
    }[folder.class_name("transformer")]().from_config
    return load_module(folder, component, build, PLACE).state_dict()


def saved(tensors: Mapping[str, Tensor], folder: Path, **header: str) -> str:
    folder.mkdir(parents=True)
    file = folder / "lora.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, header or None)
    return str(file)


def pair(
    seed: int = 0, out: int = SIZE, inputs: int = SIZE, rank: int = RANK
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inputs, generator=generator), torch.randn(
        out, rank, generator=generator
    )


def assert_changed(found: Weights, plain: Weights, added: Mapping[str, Tensor]) -> None:
    """Assert that some tensors have had something added, and all others are as they were."""
    for key, tensor in found.items():
        if key in added:
            torch.testing.assert_close(tensor, plain[key] + added[key], rtol=1e-5, atol=1e-5)
            assert not torch.equal(tensor, plain[key])
        else:
            assert torch.equal(tensor, plain[key]), key


A, B = pair()
SPELLINGS = {
    "diffusers": ("transformer.{ours}.lora_{a}.weight", "AB"),
    "old diffusers": ("transformer.{ours}.lora.{a}.weight", ("down", "up")),
    "peft": ("base_model.model.{ours}.lora_{a}.weight", "AB"),
    "peft in memory": ("base_model.model.{ours}.lora_{a}.default.weight", "AB"),
    "bare": ("{ours}.lora_{a}.weight", "AB"),
    "ComfyUI": ("diffusion_model.{theirs}.lora_{a}.weight", ("down", "up")),
    "diffusion-pipe": ("diffusion_model.{theirs}.lora_{a}.weight", "AB"),
    "checkpoint": ("model.diffusion_model.{theirs}.lora_{a}.weight", "AB"),
    "DiffSynth": ("{theirs}.lora_{a}.default.weight", "AB"),
    "DiffSynth, unstripped": ("pipe.dit.{theirs}.lora_{a}.default.weight", "AB"),
    "compiled": ("diffusion_model._orig_mod.{theirs}.lora_{a}.weight", "AB"),
    "musubi": ("lora_unet_{flat}.lora_{a}.weight", ("down", "up")),
    "VideoX-Fun": ("lora_unet__{flat}.lora_{a}.weight", ("down", "up")),
    "kohya of diffusers' names": ("lora_transformer_{flat_ours}.lora_{a}.weight", ("down", "up")),
    "LyCORIS": ("lycoris_{flat}.lora_{a}.weight", ("down", "up")),
}


@pytest.mark.parametrize("trainer", SPELLINGS)
def test_names_of_every_trainer(path: Path, plain: Weights, tmp_path: Path, trainer: str) -> None:
    spelling, (down, up) = SPELLINGS[trainer]
    theirs = "blocks.2.self_attn.o"

    def key(part: str) -> str:
        return spelling.format(
            ours=OUT,
            theirs=theirs,
            flat=theirs.replace(".", "_"),
            flat_ours=OUT.replace(".", "_"),
            a=part,
        )

    file = saved({key(down): A, key(up): B}, tmp_path / "lora")
    assert_changed(loaded(path, Lora(path=file)), plain, {f"{OUT}.weight": B @ A})


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("patch_embedding.diff", "patch_embedding.weight"),
        ("patch_embedding.diff_b", "patch_embedding.bias"),
        ("blocks.1.norm3.diff", "blocks.1.norm2.weight"),
        ("blocks.1.norm3.diff_b", "blocks.1.norm2.bias"),
        ("blocks.1.norm3.w_norm", "blocks.1.norm2.weight"),
        ("blocks.1.norm3.b_norm", "blocks.1.norm2.bias"),
        ("blocks.0.self_attn.norm_q.diff", "blocks.0.attn1.norm_q.weight"),
        ("blocks.3.ffn.2.diff_b", "blocks.3.ffn.net.2.bias"),
        ("head.head.diff", "proj_out.weight"),
        ("head.head.diff_b", "proj_out.bias"),
        ("head.diff_m", "scale_shift_table"),
        ("head.modulation.diff", "scale_shift_table"),
        ("blocks.2.diff_m", "blocks.2.scale_shift_table"),
        ("blocks.2.modulation.diff_m", "blocks.2.scale_shift_table"),
        ("time_projection.1.diff_b", "condition_embedder.time_proj.bias"),
        ("text_embedding.2.diff", "condition_embedder.text_embedder.linear_2.weight"),
    ],
)
def test_differences_alone(
    path: Path, plain: Weights, tmp_path: Path, key: str, changed: str
) -> None:
    values = torch.randn(plain[changed].shape)
    for index, name in enumerate((f"diffusion_model.{key}", "lora_unet_" + _flat(key))):
        lora = Lora(path=saved({name: values}, tmp_path / f"{index}"), scale=-0.5)
        assert_changed(loaded(path, lora), plain, {changed: -0.5 * values})


def _flat(key: str) -> str:
    module, _, part = key.rpartition(".")
    return f"{module.replace('.', '_')}.{part}"


def test_a_difference_of_a_product_and_of_its_bias_come_together(
    path: Path, plain: Weights, tmp_path: Path
) -> None:
    whole, bias = torch.randn(SIZE, SIZE), torch.randn(SIZE)
    name = "blocks.0.self_attn.q"
    file = saved(
        {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B, f"{name}.diff": whole,
         f"{name}.diff_b": bias, f"{name}.alpha": torch.tensor(6.0)},
        tmp_path / "lora",
    )  # fmt: skip
    expected = {f"{Q}.weight": 2 * B @ A + whole, f"{Q}.bias": bias}
    assert_changed(loaded(path, Lora(path=file)), plain, expected)


def test_ranks_and_alphas_differ_by_module(path: Path, plain: Weights, tmp_path: Path) -> None:
    tensors: Weights = {}
    added: Weights = {}
    for index, (rank, alpha) in enumerate([(1, 4.0), (2, None), (5, 0.5)]):
        a, b = pair(index, rank=rank)
        name = f"lora_unet_blocks_{index}_self_attn_q"
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor([alpha], dtype=torch.bfloat16)
        factor = 1.0 if alpha is None else alpha / rank
        added[f"blocks.{index}.attn1.to_q.weight"] = factor * b @ a
    assert_changed(loaded(path, Lora(path=saved(tensors, tmp_path / "lora"))), plain, added)


@pytest.mark.parametrize("form", ["whole", "flat"])
def test_a_convolution(path: Path, plain: Weights, tmp_path: Path, form: str) -> None:
    key = "patch_embedding.weight"
    out, *inputs = plain[key].shape
    a, b = torch.randn(RANK, *inputs), torch.randn(out, RANK, 1, 1, 1)
    stored = (a, b) if form == "whole" else (a.flatten(1), b.flatten(1))
    file = saved(
        {f"diffusion_model.patch_embedding.lora_{part}.weight": tensor
         for part, tensor in zip(("down", "up"), stored, strict=True)},
        tmp_path / "lora",
    )  # fmt: skip
    added = (b.flatten(1) @ a.flatten(1)).view(plain[key].shape)
    assert_changed(loaded(path, Lora(path=file)), plain, {key: added})


def header(**settings: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(settings)}


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"transformer.lora_alpha": 6}, 2.0),
        ({"lora_alpha": 6}, 2.0),
        ({"transformer.lora_alpha": 6, "transformer.use_rslora": True}, 6 / RANK**0.5),
        ({"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"to_q": 1.5}}, 0.5),
        ({"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"attn1.to_k": 1.5}}, 2.0),
        (
            {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {r"blocks\.\d+.*to_q": 3}},
            1.0,
        ),
        ({"transformer.r": 8, "transformer.rank_pattern": {"to_q": RANK}}, 1.0),
        ({"transformer_2.lora_alpha": 6, "transformer.lora_alpha": 9}, 3.0),
        ({"text_encoder.lora_alpha": 6}, 1.0),
    ],
)
def test_alpha_in_the_header(
    path: Path, plain: Weights, tmp_path: Path, settings: dict[str, Any], factor: float
) -> None:
    tensors = {f"transformer.{Q}.lora_A.weight": A, f"transformer.{Q}.lora_B.weight": B}
    file = saved(tensors, tmp_path / "lora", **header(**settings))
    assert_changed(loaded(path, Lora(path=file)), plain, {f"{Q}.weight": factor * B @ A})


def test_alpha_beside_the_file_and_of_a_key_before_it(
    path: Path, plain: Weights, tmp_path: Path
) -> None:
    tensors = {
        f"diffusion_model.blocks.0.self_attn.q.lora_{p}.weight": t for p, t in (("A", A), ("B", B))
    }
    file = saved(tensors, tmp_path / "lora")
    beside = {"lora_alpha": 12, "alpha_pattern": {"self_attn.k": 1}, "peft_type": "LORA"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(beside))
    assert_changed(loaded(path, Lora(path=file)), plain, {f"{Q}.weight": 4 * B @ A})
    tensors["diffusion_model.blocks.0.self_attn.q.alpha"] = torch.tensor(1.5)
    save_file(tensors, file)
    assert_changed(loaded(path, Lora(path=file)), plain, {f"{Q}.weight": 0.5 * B @ A})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "LOKR"}, "of the method LOKR"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun with pissa_niter_4"),
        ({"lora_alpha": "much"}, "lora_alpha of the LoRA .* is 'much'"),
        ({"lora_alpha": float("nan")}, "lora_alpha of the LoRA .* is nan"),
        ({"alpha_pattern": {"to_q(": 1}}, "is no pattern"),
    ],
)
def test_settings_that_mean_something_else_are_refused(
    path: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    tensors = {f"transformer.{Q}.lora_A.weight": A, f"transformer.{Q}.lora_B.weight": B}
    with pytest.raises(ModelError, match=words):
        loaded(path, Lora(path=saved(tensors, tmp_path / "lora", **header(**settings))))


def test_dora_is_merged_as_peft_merges_it(path: Path, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig, get_peft_model

    transformer = WanTransformer3DModel.from_pretrained(path / "transformer")
    config = LoraConfig(
        r=RANK,
        lora_alpha=5,
        target_modules=["attn1.to_q", "ffn.net.2"],
        use_dora=True,
        init_lora_weights=False,
    )
    model = get_peft_model(transformer, config)
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data *= 1 + torch.rand(parameter.shape)
    model.save_pretrained(tmp_path / "lora")
    found = loaded(path, Lora(path=str(tmp_path / "lora")))
    expected = model.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5, msg=key)


def test_dora_of_kohya_and_its_strength(path: Path, plain: Weights, tmp_path: Path) -> None:
    magnitude = torch.rand(SIZE, 1) + 0.5
    name = "lora_unet_blocks_0_self_attn_q"
    file = saved(
        {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B,
         f"{name}.alpha": torch.tensor(1.5), f"{name}.dora_scale": magnitude},
        tmp_path / "lora",
    )  # fmt: skip
    changed = plain[f"{Q}.weight"] + 0.5 * B @ A
    added = magnitude * changed / changed.norm(dim=1, keepdim=True) - plain[f"{Q}.weight"]
    for scale in (1.0, 0.3):
        found = loaded(path, Lora(path=file, scale=scale))
        assert_changed(found, plain, {f"{Q}.weight": scale * added})
    columns = saved(
        {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B,
         f"{name}.dora_scale": torch.ones(1, 32)},
        tmp_path / "columns",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"dora_scale .*shape \(1, 32\), but .* \(24,\)"):
        loaded(path, Lora(path=columns))


@pytest.mark.parametrize("spelling", ["diffusion_model.{}", "lora_unet_{}", "{}"])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("double_blocks.0.img_attn_qkv", ["transformer_blocks.0.attn.to_q",
         "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v"]),
        ("double_blocks.0.txt_attn_qkv", ["transformer_blocks.0.attn.add_q_proj",
         "transformer_blocks.0.attn.add_k_proj", "transformer_blocks.0.attn.add_v_proj"]),
        ("single_blocks.0.linear1", ["single_transformer_blocks.0.attn.to_q",
         "single_transformer_blocks.0.attn.to_k", "single_transformer_blocks.0.attn.to_v",
         "single_transformer_blocks.0.proj_mlp"]),
        ("txt_in.individual_token_refiner.blocks.0.self_attn_qkv",
         [f"context_embedder.token_refiner.refiner_blocks.0.attn.to_{part}" for part in "qkv"]),
    ],
)  # fmt: skip
def test_fused_modules_are_taken_apart(
    hunyuan: Path, tmp_path: Path, spelling: str, name: str, parts: list[str]
) -> None:
    before = loaded(hunyuan)
    sizes = [before[f"{part}.weight"].shape[0] for part in parts]
    a, b = pair(out=sum(sizes), inputs=before[f"{parts[0]}.weight"].shape[1])
    bias, magnitude = torch.randn(sum(sizes)), torch.rand(sum(sizes)) + 0.5
    written = name.replace(".", "_") if spelling.startswith("lora_unet_") else name
    key = spelling.format(written)
    tensors = {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b,
               f"{key}.alpha": torch.tensor(1.0)}  # fmt: skip
    found = loaded(hunyuan, Lora(path=saved(tensors, tmp_path / "plain")))
    ups = dict(zip(parts, torch.split(b, sizes), strict=True))
    products = {f"{part}.weight": up @ a / RANK for part, up in ups.items()}
    assert_changed(found, before, products)
    tensors |= {f"{key}.diff_b": bias, f"{key}.dora_scale": magnitude}
    found = loaded(hunyuan, Lora(path=saved(tensors, tmp_path / "more")))
    rows = dict(
        zip(
            parts,
            zip(torch.split(bias, sizes), torch.split(magnitude, sizes), strict=True),
            strict=True,
        )
    )
    added: Weights = {}
    for part, (biases, norms) in rows.items():
        changed = before[f"{part}.weight"] + products[f"{part}.weight"]
        scaled = norms[:, None] * changed / changed.norm(dim=1, keepdim=True)
        added |= {f"{part}.weight": scaled - before[f"{part}.weight"], f"{part}.bias": biases}
    assert_changed(found, before, added)


def test_halves_that_diffusers_has_the_other_way(hunyuan: Path, tmp_path: Path) -> None:
    before, key = loaded(hunyuan), "diffusion_model.final_layer.adaLN_modulation.1"
    a, b = pair(out=2 * SIZE)
    bias = torch.randn(2 * SIZE)
    tensors = {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b, f"{key}.diff_b": bias}
    found = loaded(hunyuan, Lora(path=saved(tensors, tmp_path / "lora")))
    added = {
        "norm_out.linear.weight": torch.cat((b[SIZE:], b[:SIZE])) @ a,
        "norm_out.linear.bias": torch.cat((bias[SIZE:], bias[:SIZE])),
    }
    assert_changed(found, before, added)


FAMILIES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "wan": ("WanPipeline", tiny_wan_transformer),
    "wan i2v": ("WanImageToVideoPipeline", lambda: tiny_wan_i2v_transformer(images=1)),
    "skyreels": ("SkyReelsV2Pipeline", tiny_wan_transformer),
    "hunyuan": ("HunyuanVideoPipeline", tiny_hunyuan_transformer),
    "hunyuan 1.5": ("HunyuanVideo15Pipeline", tiny_hunyuan15_transformer),
    "ltx": ("LTXPipeline", tiny_ltx_transformer),
    "mochi": ("MochiPipeline", tiny_mochi_transformer),
    "cogvideox": ("CogVideoXPipeline", tiny_cogvideox_transformer),
    "open-sora-plan": ("OpenSoraPlanPipeline", tiny_open_sora_plan_transformer),
}
SAME = {  # what the original code calls as diffusers does
    "ltx": r"caption_projection|proj_out|scale_shift_table|transformer_blocks.*\.(to_\w+|ff|scale)",
    "mochi": r"pos_frequencies",
    "wan": r"patch_embedding",
    "wan i2v": r"patch_embedding",
    "skyreels": r"patch_embedding",
    "open-sora-plan": r".*",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_name_tables_reach_every_module(family: str) -> None:
    from longtake.models import registered

    pipeline, build = FAMILIES[family]
    known = {key: tuple(tensor.shape) for key, tensor in build().state_dict().items()}
    table = registered()[pipeline].lora_names
    names, own = ModelNames(known, table), ModelNames(known, ())
    originals = set(names).difference(own)
    reached = {part for name in originals if (target := names.find(name)) for part in target.parts}
    rest = [name for name in own if name not in reached]
    assert [name for name in rest if not re.match(SAME.get(family, "$"), name)] == []
    for name in names:  # with underscores every name means the same
        assert names.find(name.replace(".", "_")) == names.find(name)
    for name in own:
        assert names.find(name) == own.find(name), "no original name hides one of diffusers'"
    swapped = [place.module for _, place in table if isinstance(place, Swapped)]
    patterns = [re.escape(module).replace(r"\*", r"\d+") for module in swapped]
    assert all(any(re.fullmatch(pattern, part) for part in reached) for pattern in patterns)


def test_the_family_knows_its_names(hunyuan: Path) -> None:
    assert family_of(open_folder(str(hunyuan))).lora_names


def both_experts(tmp_path: Path, **options: Any) -> tuple[Lora, Tensor, Tensor]:
    (a, b), (c, d) = pair(1), pair(2)
    tensors = {
        f"transformer.{Q}.lora_A.weight": a, f"transformer.{Q}.lora_B.weight": b,
        f"transformer_2.{Q}.lora_A.weight": c, f"transformer_2.{Q}.lora_B.weight": d,
    }  # fmt: skip
    return Lora(path=saved(tensors, tmp_path / "both"), **options), b @ a, d @ c


@pytest.mark.parametrize("component", ["transformer", "transformer_2", "all"])
def test_a_file_that_names_both_experts(path: Path, tmp_path: Path, component: str) -> None:
    lora, high, low = both_experts(tmp_path, scale=0.5, scale_2=2.0, component=component)
    for name, added in (("transformer", 0.5 * high), ("transformer_2", 2.0 * low)):
        before = loaded(path, component=name)
        found = loaded(path, lora, component=name)
        assert_changed(found, before, {f"{Q}.weight": added})


def test_one_file_for_both_experts(path: Path, tmp_path: Path) -> None:
    tensors = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
    lora = Lora(path=saved(tensors, tmp_path / "lora"), component="all", scale_2=0.25)
    for name, scale in (("transformer", 1.0), ("transformer_2", 0.25)):
        before = loaded(path, component=name)
        found = loaded(path, lora, component=name)
        assert_changed(found, before, {f"{Q}.weight": scale * B @ A})


def test_a_second_expert_that_the_model_lacks(tmp_path: Path) -> None:
    one = tiny_wan_folder(tmp_path / "one").path
    lora, high, _ = both_experts(tmp_path)
    with pytest.raises(ModelError, match="is for the transformer_2, which the model lacks"):
        loaded(one, lora)
    said: list[str] = []
    found = loaded(one, Lora(path=lora.path, missing="skip"), report=said.append)
    assert_changed(found, loaded(one), {f"{Q}.weight": high})
    assert len(said) == 1
    assert "skipped: transformer_*.blocks.*.attn*.to_q" in said[0]
    with pytest.raises(ConfigurationError, match=r"scale_2 0\.5, but the model has one expert"):
        loaded(one, Lora(path=lora.path, scale_2=0.5))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["scale", "scale_2"])
def test_scales_are_finite(path: Path, tmp_path: Path, name: str, scale: float) -> None:
    tensors = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
    file = saved(tensors, tmp_path / "lora")
    options: dict[str, Any] = {name: scale}
    with pytest.raises(ConfigurationError, match=rf"the {name} of the LoRA .* must be a finite"):
        open_folder(str(path), [Lora(path=file, **options)])
    with pytest.raises(ModelError, match=r"attn1\.to_q\.weight is no longer finite"):
        loaded(path, Lora(path=file, scale=1e38))


REFUSED = {
    "hada_w1_a": "is of LoHa", "lokr_w1": "is of LoKr", "lora_mid.weight": "is of LoCon",
    "oft_blocks": "is of OFT", "ia3_l.weight": "is of IA3", "set_weight": "is of a replaced weight",
    "weight": "is no part of a LoRA", "lora_A.bias": "is no part of a LoRA",
    "lora_embedding_A": "is of LoRA of an embedding", "scale_weight": "is no part of a LoRA",
}  # fmt: skip


@pytest.mark.parametrize("ending", REFUSED)
def test_other_methods_are_refused_by_name(path: Path, tmp_path: Path, ending: str) -> None:
    tensors = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, f"{OUT}.{ending}": torch.ones(2)}
    words = rf"{re.escape(OUT)}\.{re.escape(ending)} in .*lora\.safetensors {REFUSED[ending]}"
    for skip in (False, True):
        lora = Lora(path=saved(tensors, tmp_path / f"{skip}"), missing="skip" if skip else "refuse")
        with pytest.raises(ModelError, match=words):
            open_folder(str(path), [lora])


def added_keys(generator: torch.Generator) -> dict[str, tuple[Tensor, ...]]:
    """Return keys that somebody's LoRA may have besides those of ``blocks.0.attn1.to_q``."""
    shapes: dict[str, tuple[int, ...]] = {
        f"transformer.{Q}.alpha": (), f"transformer.{Q}.diff": (SIZE, SIZE),
        f"transformer.{Q}.diff_b": (SIZE,), f"transformer.{Q}.dora_scale": (SIZE, 1),
        f"transformer.{Q}.lora_B.bias": (SIZE,), f"{Q}.lora_down.weight": (RANK, SIZE),
        f"transformer.{OUT}.alpha": (), f"transformer.{OUT}.dora_scale": (SIZE,),
        f"transformer.{OUT}.lora_A.weight": (RANK, SIZE), f"transformer.{OUT}.diff_b": (SIZE,),
        f"transformer.{OUT}.lora_B.bias": (SIZE,), f"transformer.{OUT}.diff": (SIZE, SIZE),
        "transformer.blocks.0.diff_m": (1, 6, SIZE), "blocks.0.modulation.diff": (1, 6, SIZE),
        "diffusion_model.blocks.0.norm3.diff": (SIZE,), "blocks.0.norm1.diff": (SIZE,),
        "blocks.0.norm2.diff": (SIZE,), "blocks.0.cross_attn.k_img.diff_b": (SIZE,),
        "diffusion_model.patch_embedding.diff": (SIZE, 4, 1, 2, 2), "head.diff_m": (1, 2, SIZE),
        "diffusion_model.head.head.diff_b": (16,), "diffusion_model.nothing.diff": (SIZE,),
        "text_encoder.layers.0.lora_A.weight": (RANK, SIZE), "lora_te_layers_0.alpha": (),
        "blocks.0.self_attn.norm_q.w_norm": (SIZE,), "blocks.0.self_attn.norm_q.b_norm": (SIZE,),
        "transformer_2.blocks.0.attn1.to_q.diff_b": (SIZE,), "what": (3,), "x.lora_A.weight": (3,),
        f"{Q}.weight": (SIZE, SIZE), f"{Q}.lokr_w1": (SIZE, SIZE), f"{Q}.scale": (1,),
        "blocks.0.self_attn.q.lora_A.second.weight": (RANK, SIZE), f"{Q}.diff_m": (SIZE, SIZE),
    }  # fmt: skip
    return {key: (torch.randn(shape, generator=generator),) for key, shape in shapes.items()}


@pytest.mark.parametrize("key", added_keys(torch.Generator()))
def test_any_key_that_is_added_changes_the_merge_or_is_refused(
    path: Path, tmp_path: Path, key: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {f"transformer.{Q}.lora_A.weight": A, f"transformer.{Q}.lora_B.weight": B}
    (more,) = added_keys(generator)[key]
    one, two = (
        Lora(path=saved(each, tmp_path / name))
        for name, each in (("one", tensors), ("two", tensors | {key: more}))
    )
    experts = ("transformer", "transformer_2")
    before = [loaded(path, one, component=name) for name in experts]
    refusal, after = "", list[Weights]()
    try:
        after = [loaded(path, two, component=name) for name in experts]
    except ModelError as error:
        refusal = str(error)
    changed = [
        name
        for old, new in zip(before, after, strict=False)
        for name in old
        if not torch.equal(old[name], new[name])
    ]
    assert key in refusal or changed, f"{key} changes nothing, and is not refused by name"


def test_zeros_without_a_place_are_passed_over(path: Path, plain: Weights, tmp_path: Path) -> None:
    tensors = {
        f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B,
        "blocks.0.norm1.diff": torch.zeros(SIZE),
        "blocks.0.cross_attn.k_img.diff_b": torch.zeros(5),
        "blocks.0.self_attn.norm_q.b_norm": torch.zeros(SIZE),
        "blocks.9.self_attn.q.lora_A.weight": A.clone(),
        "blocks.9.self_attn.q.lora_B.weight": 0 * B,
    }  # fmt: skip
    lora = Lora(path=saved(tensors, tmp_path / "lora"))
    assert_changed(loaded(path, lora), plain, {f"{Q}.weight": B @ A})


def test_nothing_is_left_of_a_lora_of_another_model(path: Path, tmp_path: Path) -> None:
    tensors = {"double_blocks.0.img_mlp.fc1.lora_A.weight": A,
               "double_blocks.0.img_mlp.fc1.lora_B.weight": B}  # fmt: skip
    lora = Lora(path=saved(tensors, tmp_path / "lora"), missing="skip")
    with pytest.raises(ModelError, match=r"img_mlp\.fc1\.lora_A\.weight in .* matches no module"):
        loaded(path, lora)
