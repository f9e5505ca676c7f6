"""Operations and weights, counted without loading anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from longtake.models import ModelFolder, Placement, PromptStates, family_of
from longtake.models.blank import BlankModel
from longtake.models.counting import WeightCount, count_flops, count_weights, decoder_cost
from longtake.models.peak import FusedAttention
from longtake.models.wan import WanFamily
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.cogvideox import tiny_cogvideox_folder
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder
from longtake.testing.tiny.hunyuan_video15 import tiny_hunyuan15_folder
from longtake.testing.tiny.ltx import tiny_ltx_folder
from longtake.testing.tiny.mochi import tiny_mochi_folder
from longtake.testing.tiny.open_sora_plan import (
    published_forward,
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_transformer,
)
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder
from longtake.testing.tiny.wan_ti2v import tiny_ti2v_folder

# diffusers runs Mochi's rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

HEIGHT, WIDTH = 4, 6
PLACE = Placement(torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class Case:
    """A family's folder, and diffusers' own forward of its transformer.

    Args:
        make: Saves a tiny pipeline folder.
        model: diffusers' transformer.
        run: Runs it on latents, a timestep and prompts.
        third: How the names of the tensors of layer 2 begin.
        tolerance: Share of the operations that may be counted otherwise.
    """

    make: Callable[[Path], ModelFolder]
    model: Any
    run: Callable[[Any, Tensor, Tensor, PromptStates], Any]
    third: str
    tolerance: float = 1e-6


def wan(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    return model(latents, time, prompts["states"])


def wan_i2v(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    further = model.config.in_channels - latents.shape[1]
    known = latents[:, :1].expand(-1, further, -1, -1, -1)
    return model(torch.cat([latents, known], 1), time, prompts["states"], prompts["image"])


def hunyuan(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    scale = torch.tensor([6000.0])
    return model(latents, time, prompts["states"], prompts["mask"], prompts["pooled"], scale)


def hunyuan15(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    further = model.config.in_channels - latents.shape[1]
    return model(
        torch.cat([latents, latents[:, :1].expand(-1, further, -1, -1, -1)], 1),
        time,
        prompts["states"],
        prompts["mask"],
        encoder_hidden_states_2=prompts["glyphs"],
        encoder_attention_mask_2=prompts["glyphs_mask"],
        image_embeds=torch.zeros(1, 1, model.config.image_embed_dim),
    )


def cogvideox(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    size, frames = (HEIGHT // 2, WIDTH // 2), latents.shape[2]
    rotary = get_3d_rotary_pos_embed(model.config.attention_head_dim, ((0, 0), size), size, frames)
    return model(latents.transpose(1, 2), prompts["states"], time, image_rotary_emb=rotary)


def skyreels(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    return model(latents, time, prompts["states"], fps=[1])


def mochi(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    return model(latents, prompts["states"], time, prompts["mask"])


def ltx(model: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    tokens = latents.flatten(2).transpose(1, 2)
    size = dict(zip(("num_frames", "height", "width"), latents.shape[2:], strict=True))
    return model(tokens, prompts["states"], time, prompts["mask"], **size)


def open_sora_plan(_: Any, latents: Tensor, time: Tensor, prompts: PromptStates) -> Any:
    prompts = {**prompts, "mask": torch.ones(prompts["states"].shape[:2])}
    return published_forward(tiny_open_sora_plan_transformer(), latents, float(time), prompts)


CASES = {
    "wan": Case(tiny_wan_folder, WanTransformer3DModel, wan, "blocks.2."),
    "wan ti2v": Case(tiny_ti2v_folder, WanTransformer3DModel, wan, "blocks.2."),
    "wan i2v": Case(tiny_wan_i2v_folder, WanTransformer3DModel, wan_i2v, "blocks.2."),
    "hunyuan": Case(
        tiny_hunyuan_folder, HunyuanVideoTransformer3DModel, hunyuan, "single_transformer_blocks.0."
    ),
    # diffusers puts an image of zeros among the tokens, and embeds it.
    "hunyuan 1.5": Case(
        tiny_hunyuan15_folder,
        HunyuanVideo15Transformer3DModel,
        hunyuan15,
        "transformer_blocks.2.",
        tolerance=5e-3,
    ),
    "cogvideox": Case(
        tiny_cogvideox_folder, CogVideoXTransformer3DModel, cogvideox, "transformer_blocks.2."
    ),
    # Rotations are made in every layer here, once in diffusers.
    "mochi": Case(
        tiny_mochi_folder,
        MochiTransformer3DModel,
        mochi,
        "transformer_blocks.2.",
        tolerance=2e-3,
    ),
    "ltx": Case(tiny_ltx_folder, LTXVideoTransformer3DModel, ltx, "transformer_blocks.2."),
    "open-sora-plan": Case(
        tiny_open_sora_plan_folder, None, open_sora_plan, "transformer_blocks.2."
    ),
    # The frame rate is embedded when the model is loaded, in diffusers in every forward.
    "skyreels": Case(
        tiny_skyreels_folder,
        SkyReelsV2Transformer3DModel,
        skyreels,
        "blocks.2.",
        tolerance=1e-3,
    ),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def made(case: Case, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return case.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny", experts=2)


def operations(run: Callable[[], Any]) -> int:
    # The counter knows matrix products, and of attention's kernels only some.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def test_a_clip_takes_as_many_as_in_diffusers_own_forward(case: Case, made: ModelFolder) -> None:
    family = family_of(made)
    spec = family.spec(made)
    work = count_flops(BlankModel.of(made), HEIGHT, WIDTH)
    weights = count_weights(made, ["transformer"], spec.layers, family.layer_lists)
    assert count_flops(BlankModel.of(made), HEIGHT, WIDTH, weights) == work, "alike: counted once"
    start = family.blank_start(made, spec, HEIGHT, WIDTH)
    prompts = family.blank_prompts(made, spec) | (start.prompt_rows(1) if start else {})
    model = case.model and case.model.from_pretrained(made.path / "transformer")
    latents = torch.zeros(1, spec.channels, spec.native_frames, HEIGHT, WIDTH)
    expected = operations(lambda: case.run(model, latents, torch.tensor([500.0]), prompts))

    backbone = family.load_backbone(made, spec, range(spec.layers), PLACE)
    once = operations(lambda: backbone.condition_text(prompts))
    once += operations(lambda: backbone.condition_step(500.0, 6.0))
    video = spec.native_frames * spec.tokens_per_frame(HEIGHT, WIDTH)
    queries = video + spec.text_tokens
    layers = spec.layers * queries * (work.layer + work.attention * queries)
    assert once + (work.embed + work.head) * video + layers == pytest.approx(
        expected, rel=case.tolerance
    )


@pytest.mark.parametrize(("name", "frames"), [("hunyuan", 24), ("cogvideox", 6), ("ltx", 24)])
def test_decoders_that_hold_frames_back_are_counted_too(
    name: str, frames: int, tmp_path: Path
) -> None:
    folder = CASES[name].make(tmp_path / "tiny")
    family = family_of(folder)
    spec = family.spec(folder)
    work = count_flops(BlankModel.of(folder), 8, 8)
    decoder = family.load_decoder(folder, torch.device("meta"))
    state = decoder.start()
    latents = torch.empty(1, spec.channels, frames, 8, 8, device="meta")
    operations(lambda: [*decoder.decode(state, latents)])
    expected = operations(lambda: [*decoder.decode(state, latents)])
    assert frames * work.decode == pytest.approx(expected, rel=0.01)


def test_weights_of_layers_are_told_from_the_rest(case: Case, made: ModelFolder) -> None:
    family = family_of(made)
    spec = family.spec(made)
    found = count_weights(made, ["transformer"], spec.layers, family.layer_lists)
    tensors: dict[str, Any] = {}
    for file in set(made.weight_files("transformer").values()):
        header = file.read_bytes()
        size = int.from_bytes(header[:8], "little")
        tensors |= json.loads(header[8 : 8 + size])
    tensors.pop("__metadata__", None)
    counts = {key: torch.Size(tensor["shape"]).numel() for key, tensor in tensors.items()}
    third = sum(count for key, count in counts.items() if key.startswith(case.third))
    assert found.layers[2] == third > 0
    assert sum(found.layers) + found.rest == sum(counts.values())
    assert all(found.layers)


def test_operations_are_those_of_the_model(folder: ModelFolder) -> None:
    work = count_flops(BlankModel.of(folder), 4, 6)
    dim, ffn, text = 24, 32, 8
    # Self-attention's q, k, v, out; cross-attention's q, out and its kernel; the feed-forward.
    assert work.layer == 2 * (4 * dim**2 + 2 * dim**2 + 2 * text * dim + 2 * dim * ffn)
    assert work.attention == 4 * dim
    assert work.embed == work.head == 2 * (4 * 2 * 2) * dim
    larger = count_flops(BlankModel.of(folder), 8, 6)
    # Of twice as many positions; its attention among the positions of a frame grows faster.
    assert 2 * work.decode <= larger.decode < 2.2 * work.decode
    assert (larger.layer, larger.embed) == (work.layer, work.embed)


def test_a_family_that_cannot_be_built_without_weights_is_estimated(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no meta device here")

    blank = BlankModel.of(folder)
    counted = count_flops(blank, 4, 6)
    monkeypatch.setattr(WanFamily, "load_backbone", refuse)
    other = BlankModel(blank.family, folder, replace(blank.spec, name="other"), torch.float32)
    work = count_flops(other, 4, 6)
    assert work.decode == counted.decode, "what can be counted is"
    assert counted.layer < work.layer < 4 * counted.layer
    assert work.attention == counted.attention


def test_lists_that_nobody_names_are_those_as_long_as_the_model(folder: ModelFolder) -> None:
    named = count_weights(folder, ["transformer", "transformer_2"], 4, ["blocks"])
    assert count_weights(folder, ["transformer", "transformer_2"], 4) == named
    half = count_weights(folder, ["transformer"], 4, ["blocks"])
    assert named == WeightCount(
        layers=tuple(2 * layer for layer in half.layers), rest=2 * half.rest
    )


def test_models_with_the_same_settings_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tiny_wan_folder(tmp_path / name) for name in ("first", "second"))
    other = tiny_wan_folder(tmp_path / "other", experts=2)
    spec = WanFamily().spec(first)
    blanks = [BlankModel(WanFamily(), one, spec, torch.float32) for one in (first, second)]
    assert blanks[0] == blanks[1] != BlankModel(WanFamily(), other, spec, torch.float32)
    assert blanks[0] != blanks[0].with_dtype(torch.bfloat16)
    cost = decoder_cost(blanks[0], 4, 6)
    monkeypatch.setattr(WanFamily, "load_decoder", None)
    assert decoder_cost(blanks[1], 4, 6) is cost is not None


def test_a_decoders_attention_is_counted() -> None:
    q, k = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 7, 8)
    with FusedAttention() as attention:
        functional.scaled_dot_product_attention(q, k, torch.zeros(1, 2, 7, 6))
    assert attention.flops == 2 * 2 * 5 * 7 * (8 + 6)
