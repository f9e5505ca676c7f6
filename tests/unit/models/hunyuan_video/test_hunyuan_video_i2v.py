"""HunyuanVideo image to video: both ways to be told of the image, and Llava's view of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
from PIL import Image
from tests.unit.models.hunyuan_video.test_hunyuan_video import forward
from torch import Tensor
from transformers import AutoTokenizer

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ConfigurationError, ModelError
from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.engine.encoded_prompts import EncodedPrompts
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
)
from longtake.models.hunyuan_video import HunyuanVideoFamily
from longtake.models.text import move_prompts
from longtake.plan.check.methods import check_method
from longtake.schedulers import ContextWindows, FifoQueue
from longtake.strategies import Communicator, SingleDevice
from longtake.task import FrameRange
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase
from longtake.testing.tiny.hunyuan_video import (
    EMBEDDED_SCALE,
    tiny_hunyuan_folder,
    tiny_hunyuan_prompts,
    tiny_hunyuan_transformer,
)
from longtake.testing.tiny.hunyuan_video_i2v import (
    tiny_hunyuan_i2v_backbone,
    tiny_hunyuan_i2v_denoising,
    tiny_hunyuan_i2v_spec,
    tiny_hunyuan_i2v_transformer,
    tiny_hunyuan_start,
)
from longtake.testing.tiny.published import published_folder
from longtake.testing.window import Run

CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)
CONDITIONS = ("token_replace", "latent_concat")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return published_folder("HunyuanVideo-I2V", tmp_path_factory.mktemp("i2v") / "folder")


class TestLatentConcatBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_hunyuan_i2v_backbone(
            "latent_concat", range(LAYERS) if layers is None else layers
        )

    def prompts(self) -> PromptStates:
        return tiny_hunyuan_prompts(2)

    def start(self) -> ConditioningFrames:
        """Alike in all frames, as the suite wants it."""
        start = tiny_hunyuan_start("latent_concat")
        assert start.channels is not None
        return replace(start, channels=start.channels[:, :, :1])

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        channels = self.start().channels_of(tuple(range(latents.shape[2])))
        beside = torch.cat((latents, channels.expand(len(latents), -1, -1, -1, -1)), dim=1)
        transformer = tiny_hunyuan_i2v_transformer("latent_concat")
        return forward(transformer, beside, timestep, prompts, self.guidance)


class TestTokenReplaceBackbone(BackboneContract):
    """Of windows without given frames, which diffusers' text-to-video layers see as these do."""

    guidance = EMBEDDED_SCALE

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_hunyuan_i2v_backbone(
            "token_replace", range(LAYERS) if layers is None else layers
        )

    def prompts(self) -> PromptStates:
        return tiny_hunyuan_prompts(2)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        return forward(tiny_hunyuan_transformer(), latents, timestep, prompts, self.guidance)


@pytest.mark.parametrize("frames", [2, 4])
def test_a_given_frame_is_replaced_as_diffusers_does(frames: int) -> None:
    latents = torch.randn(1, CHANNELS, frames, HEIGHT, WIDTH)
    prompts, level = tiny_hunyuan_prompts(2), 700.0
    transformer = tiny_hunyuan_i2v_transformer("token_replace")
    rows = latents.expand(2, -1, -1, -1, -1)
    expected = forward(transformer, rows, level, prompts, EMBEDDED_SCALE)
    backbone = tiny_hunyuan_i2v_backbone("token_replace")
    grid = Grid.of(FrameRange(0, frames), height=HEIGHT, width=WIDTH)
    levels = [0.0] + [level] * (frames - 1)
    found = Run(backbone, grid, levels, prompts, EMBEDDED_SCALE).predict(latents)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    alike = Run(backbone, grid, level, prompts, EMBEDDED_SCALE).predict(latents)
    assert (found - alike).abs().max() > 1e-2 * expected.abs().max(), "timestep 0 is not seen"


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=repr)
def test_a_queue_of_blocks_sees_the_image(condition: str, cache: FeatureCache) -> None:
    videos = []
    for seed in (0, 1):
        start = tiny_hunyuan_start(condition, seed)
        work = tiny_hunyuan_i2v_denoising(
            TinyCase(cache=cache, scales=(1.0,)), condition=condition, start=start
        )
        videos.append(serial_video(work))
        held = torch.equal(videos[-1][:, :, :1], start.latents)
        assert held == (condition == "token_replace")
    assert videos[0].shape == (1, CHANNELS, 11, HEIGHT, WIDTH)
    assert videos[0].isfinite().all()
    # The first block sees the image; the others see what it has left to them.
    change = (videos[0] - videos[1]).abs().amax(dim=(0, 1, 3, 4))
    assert change[1] > 0.05
    assert change[3:].min() > 1e-4


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_specs_are_those_of_the_tiny_ones(condition: str, tmp_path: Path) -> None:
    name = {"token_replace": "HunyuanVideo-I2V", "latent_concat": "HunyuanVideo-I2V-33ch"}[
        condition
    ]
    folder = published_folder(name, tmp_path / "folder")
    family = family_of(folder)
    assert isinstance(family, HunyuanVideoFamily)
    found, tiny = family.spec(folder), tiny_hunyuan_i2v_spec(condition)
    for field in ("guidance", "start", "image_in_noise", "reads_picture", "native_frames"):
        assert getattr(found, field) == getattr(tiny, field), field
    # 576 tokens of Llava's, every fourth or second one; of the prompt's 256 the pipeline cuts 4.
    assert found.text_tokens == {"token_replace": 144, "latent_concat": 288}[condition] + 252
    assert found.channels == 16
    assert f"hunyuanvideo-community/{name}" in family.card(folder).examples


def test_a_folder_that_fits_no_pipeline_is_refused(tmp_path: Path, folder: ModelFolder) -> None:
    images = tiny_hunyuan_folder(tmp_path / "images", image_condition_type="token_replace")
    with pytest.raises(ModelError, match="HunyuanVideoPipeline whose transformer has the image"):
        HunyuanVideoFamily().spec(images)


def test_only_what_a_rank_needs_is_held(folder: ModelFolder) -> None:
    assert len(set(folder.weight_files("transformer").values())) > 2
    family = HunyuanVideoFamily()
    held = family.load_backbone(folder, family.spec(folder), [1, 2], PLACE)._transformer
    whole = HunyuanVideoTransformer3DModel.from_pretrained(folder.path / "transformer").state_dict()
    found = held.state_dict()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in found.items())
    layers = {".".join(key.split(".")[:2]) for key in found if "transformer_blocks." in key}
    assert layers == {"transformer_blocks.1", "single_transformer_blocks.0"}
    assert not any(key.startswith(("x_embedder", "proj_out", "norm_out")) for key in found)


def test_bf16_is_rounded_as_diffusers_does(folder: ModelFolder) -> None:
    place, family, level = Placement(CPU, torch.bfloat16), HunyuanVideoFamily(), 900.0
    expected = HunyuanVideoTransformer3DModel.from_pretrained(
        folder.path / "transformer", torch_dtype=torch.bfloat16
    )
    prompts = move_prompts(family.encode_text(folder, ["a red bird"], PLACE), place)
    latents = torch.randn(1, 16, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    whole = forward(expected, latents.bfloat16(), level, prompts, EMBEDDED_SCALE)
    backbone = family.load_backbone(folder, family.spec(folder), range(LAYERS), place)
    grid = Grid.of(FrameRange(0, 3), height=HEIGHT, width=WIDTH)
    run = Run(backbone, grid, (0.0, level, level), prompts, EMBEDDED_SCALE)
    found = run.predict(latents)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.02 * whole.abs().max().item())


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (70, 50, 3), generator=generator).byte()


def test_prompts_are_seen_beside_pictures_as_the_pipeline_does(folder: ModelFolder) -> None:
    prompts = ["a red bird", "a red bird", "", "sea " * 400]  # the last one is too long
    pictures = [picture(1), picture(2), None, picture(1)]
    family = HunyuanVideoFamily()
    found = family.encode_text_with_pictures(folder, prompts, pictures, PLACE)
    # By the class that the index names it would drop the prompt's spaces (transformers 5.23).
    tokenizer = AutoTokenizer.from_pretrained(folder.path / "tokenizer")
    pipeline = HunyuanVideoImageToVideoPipeline.from_pretrained(folder.path, tokenizer=tokenizer)
    for row, (prompt, seen) in enumerate(zip(prompts, pictures, strict=True)):
        shown = torch.zeros(64, 96, 3).byte() if seen is None else seen
        states, pooled, mask = pipeline.encode_prompt(
            Image.fromarray(shown.numpy()), [prompt], image_embed_interleave=4
        )
        assert torch.equal(found["mask"][row], mask[0].bool())
        assert torch.equal(found["states"][row], states[0])
        assert torch.equal(found["pooled"][row], pooled[0])
    words = found["states"][:, 144:]
    assert not torch.allclose(words[0], words[1], rtol=1e-2), "the picture is not seen"
    alone = family.encode_text(folder, [""], PLACE)
    assert torch.equal(alone["states"][0], found["states"][2])


def test_each_request_is_seen_beside_its_own_picture(folder: ModelFolder, tmp_path: Path) -> None:
    """In one run, of one prompt, from a file of each request."""
    requests = []
    for seed in (1, 2):
        file = tmp_path / f"{seed}.png"
        Image.fromarray(picture(seed).numpy()).save(file)
        requests.append(
            Request(
                prompts=(PromptAt(text="a red bird"),),
                num_frames=5,
                height=64,
                width=96,
                start=str(file),
            )
        )
    config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(2, 1), steps=1, dtype="float32"
    )
    encoded = EncodedPrompts(ResolvedModel(config, PLACE))
    encoded.encode(requests, Communicator.alone(), 0)
    family = HunyuanVideoFamily()
    backbone = family.load_backbone(folder, family.spec(folder), (), PLACE)
    expected = family.encode_text_with_pictures(
        folder, ["a red bird"] * 2, [picture(1), picture(2)], PLACE
    )["states"]
    for request, wanted in zip(requests, expected, strict=True):
        found = encoded.condition(request, backbone)("a red bird", range(1))
        assert torch.equal(found.states[0], wanted)


def test_without_an_image_it_is_refused(folder: ModelFolder) -> None:
    config = GenerationConfig(pipeline=str(folder.path), steps=1, dtype="float32")
    request = Request(prompts=(PromptAt(text="red"),), num_frames=5, height=64, width=96)
    with pytest.raises(ConfigurationError, match=r"continues a first frame, but there is no data"):
        Engine(config, SingleDevice()).check([request])


def test_windows_that_go_round_are_refused() -> None:
    case = TinyCase(scheduler=ContextWindows(6, 2, schedule="looped"), cache=NoCache())
    workload = replace(case.workload, spec=tiny_hunyuan_i2v_spec("token_replace"))
    with pytest.raises(ConfigurationError, match="choose a schedule that does not loop"):
        check_method(workload)
    check_method(replace(workload, spec=tiny_hunyuan_i2v_spec("latent_concat")))
