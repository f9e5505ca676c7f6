"""Wan image to video: the contract of its backbone, and the pipeline of diffusers as its oracle."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ConfigurationError, ModelError
from longtake.framework.engine.conditioning import check_start
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.encoded_conditioning import EncodedConditioning
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.timings import Timings
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    DiffusersSampler,
    GivenFrames,
    Grid,
    ModelFolder,
    Placement,
    PromptStates,
    family_of,
    load_scheduler,
    open_folder,
)
from longtake.models.text import join_prompts, split_prompts
from longtake.models.wan import WanFamily
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, Communicator, Denoising, Layout, SingleDevice
from longtake.task import FrameRange, Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.tiny.base import BOUNDARY, CHANNELS, LAYERS, TinyCase
from longtake.testing.tiny.wan_i2v import (
    TEXT_TOKENS,
    tiny_start,
    tiny_wan_i2v_backbone,
    tiny_wan_i2v_denoising,
    tiny_wan_i2v_folder,
    tiny_wan_i2v_prompts,
    tiny_wan_i2v_spec,
    tiny_wan_i2v_transformer,
)
from longtake.testing.window import Run

PLACE = Placement(torch.device("cpu"), torch.float32)
STEPS = 3
FRAMES, HEIGHT, WIDTH = 3, 4, 6
NATIVE = 21
PROMPTS = ["red shape moves left", "slow"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ModelFolder]:
    """Return Wan 2.1 I2V (one expert, with an image encoder) and Wan 2.2 I2V (two experts)."""
    root = tmp_path_factory.mktemp("i2v")
    return {
        experts: tiny_wan_i2v_folder(root / str(experts), experts=experts) for experts in (1, 2)
    }


def same_everywhere() -> ConditioningFrames:
    """Return a start whose input channels hold the same in every latent frame."""
    return tiny_start(described=1)


def channels(frames: int) -> Tensor:
    made = same_everywhere().channels
    assert made is not None
    return made.expand(-1, -1, frames, -1, -1)


class TestWan21I2VBackbone(BackboneContract):
    experts = 1

    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_wan_i2v_backbone(range(LAYERS) if layers is None else layers, self.experts)

    def prompts(self) -> PromptStates:
        return tiny_wan_i2v_prompts(2)

    def start(self) -> ConditioningFrames:
        return same_everywhere()

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        seed = 0 if self.experts == 1 or timestep >= BOUNDARY * 1000 else 1
        transformer = tiny_wan_i2v_transformer(seed, images=int(self.experts == 1))
        condition = channels(latents.shape[2]).expand(len(latents), -1, -1, -1, -1)
        out: Tensor = transformer(
            torch.cat([latents, condition], dim=1),
            torch.full((len(latents),), timestep),
            prompts["states"],
            prompts["image"] if self.experts == 1 else None,
            return_dict=False,
        )[0]
        return out

    def test_the_image_matters(self) -> None:
        """In the cross-attention of Wan 2.1, and in the input channels of both."""
        backbone, prompts = self.load(), self.prompts()
        grid = Grid.of(FrameRange(0, FRAMES), height=HEIGHT, width=WIDTH)
        latents = torch.zeros(1, CHANNELS, FRAMES, HEIGHT, WIDTH)
        other = {**prompts, "image": -prompts["image"]}
        seen = [
            Run(backbone, grid, 900.0, text, start=start).predict(latents)
            for text, start in (
                (prompts, self.start()),
                (other, self.start()),
                (prompts, tiny_start(seed=1)),
            )
        ]
        assert torch.equal(seen[0], seen[1]) == (self.experts == 2)
        assert not torch.allclose(seen[0], seen[2], rtol=1e-2)


class TestWan22I2VBackbone(TestWan21I2VBackbone):
    experts = 2


def picture(path: Path, height: int = HEIGHT * 8, width: int = WIDTH * 8, seed: int = 0) -> Path:
    """Save a random picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def encoded(
    folder: ModelFolder, frames: Tensor, original: Tensor | None = None
) -> ConditioningFrames:
    family = WanFamily()
    given = GivenFrames(start=frames, original=original)
    return family.encode_given(folder, family.spec(folder), given, PLACE)


def pixels_of(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path)))[None]


def starting_latents() -> Tensor:
    shape = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def full_sequence(folder: ModelFolder, image: Path, scales: tuple[float, ...]) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts and image included."""
    family, guidance = WanFamily(), ClassifierFreeGuidance(GuidanceSettings(scales=scales))
    spec = family.spec(folder)
    backbone = family.load_backbone(folder, spec, range(LAYERS), PLACE)
    start = encoded(folder, pixels_of(image))
    prompts = family.encode_text(folder, PROMPTS[: len(guidance.branches)], PLACE)
    text = backbone.condition_text(prompts | start.prompt_rows(len(guidance.branches)))
    work = Denoising(
        backbone=backbone,
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([starting_latents()]),
        cache=NoCache(),
        sampler=DiffusersSampler(load_scheduler(folder, None, None), STEPS),
        guidance=guidance,
        text=lambda _frames, _branches: text,
        height=HEIGHT,
        width=WIDTH,
        device=PLACE.device,
        start=start,
    )
    events = list(SingleDevice().run(work, Layout.serial(LAYERS, len(guidance.branches)), 0))
    assert isinstance(events[-1], BlockDone)
    return events[-1].latents


@pytest.mark.parametrize(
    ("experts", "scales"), [(1, (5.0,)), (1, (1.0,)), (2, (4.0, 3.0)), (2, (1.0, 1.0))]
)
def test_a_full_sequence_is_the_pipeline(
    folders: dict[int, ModelFolder], tmp_path: Path, experts: int, scales: tuple[float, ...]
) -> None:
    folder, image = folders[experts], picture(tmp_path / "first.png")
    pipeline = WanImageToVideoPipeline.from_pretrained(folder.path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=Image.open(image),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scales[0],
        latents=starting_latents(),
        output_type="latent",
        max_sequence_length=TEXT_TOKENS,
        **({"guidance_scale_2": scales[1]} if experts == 2 else {}),
    ).frames
    found = full_sequence(folder, image, scales)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = full_sequence(folder, picture(tmp_path / "other.png", seed=1), scales)
    assert (found - other).abs().max() > 1e-2 * expected.abs().max(), "the image is not seen"


def test_frames_of_a_video_are_marked_and_encoded_with_gray_behind_them(
    folders: dict[int, ModelFolder],
) -> None:
    frames = torch.randint(0, 256, (9, 32, 48, 3), dtype=torch.uint8)
    start, vae = encoded(folders[2], frames), load_vae(folders[2])
    assert start.channels is not None
    assert start.latents.shape[2] == 3
    mask, clip = start.channels[:, :4], start.channels[:, 4:]
    assert mask.shape[2] == clip.shape[2] == NATIVE
    assert torch.equal(mask[:, :, :3], torch.ones(1, 4, 3, HEIGHT, WIDTH))
    assert not mask[:, :, 3:].any()
    video = torch.zeros(1, 3, 1 + 4 * (NATIVE - 1), 32, 48)
    video[:, :, :9] = frames.permute(3, 0, 1, 2) / 127.5 - 1.0
    with torch.no_grad():
        expected = normalized(vae, vae.encode(video).latent_dist.mode())
    torch.testing.assert_close(clip, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(start.latents, clip[:, :, :3])


def test_the_image_encoder_sees_the_picture_as_it_was(
    folders: dict[int, ModelFolder], tmp_path: Path
) -> None:
    """As in the pipeline, which resizes for the VAE only: what is cropped away is seen too."""
    file = picture(tmp_path / "wide.png", 40, 96, seed=3)
    pipeline = WanImageToVideoPipeline.from_pretrained(folders[1].path)
    with torch.no_grad():
        expected = pipeline.encode_image(Image.open(file), PLACE.device)
    generation_config = GenerationConfig(pipeline=str(folders[1].path), dtype="float32")
    model = ResolvedModel(generation_config, PLACE)
    request = Request(
        prompts=(PromptAt(text="red"),),
        num_frames=9,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        start=str(file),
    )
    starts = EncodedConditioning(model, Timings())
    starts.encode([request], Communicator.alone(), 0)
    start = starts.of(request)
    assert start is not None
    torch.testing.assert_close(start.prompts["image"], expected, rtol=1e-5, atol=1e-5)
    fitted = ConditioningFile(str(file)).last(1, HEIGHT * 8, WIDTH * 8)
    assert not torch.allclose(encoded(folders[1], fitted).prompts["image"], expected, rtol=1e-2)


def load_vae(folder: ModelFolder) -> Any:
    pipeline = WanImageToVideoPipeline.from_pretrained(folder.path)
    return pipeline.vae


def normalized(vae: Any, latents: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def test_frames_after_the_native_clip_are_like_its_last_one() -> None:
    start = tiny_start(described=5)
    assert start.channels is not None
    seen = start.channels_of(FrameRange(3, 8).each)
    assert torch.equal(seen[:, :, :2], start.channels[:, :, 3:])
    assert torch.equal(seen[:, :, 2:], start.channels[:, :, 4:].expand(-1, -1, 3, -1, -1))
    assert start.channels_of(FrameRange(100_000, 100_008).each).shape == (1, 8, 8, HEIGHT, WIDTH)


def test_a_window_sees_the_channels_of_its_own_frames() -> None:
    backbone, start = tiny_wan_i2v_backbone([0], experts=2), tiny_start(described=5)
    latents = torch.randn(1, CHANNELS, 4, HEIGHT, WIDTH)
    text = {"states": tiny_wan_i2v_prompts(1)["states"]}
    grids = [
        Grid.of(FrameRange(at, at + count), height=HEIGHT, width=WIDTH)
        for at, count in ((0, 4), (2, 2), (0, 2))
    ]
    with torch.no_grad():
        whole = Run(backbone, grids[0], 900.0, text, start=start).embed(latents)
        part = Run(backbone, grids[1], 900.0, text, start=start).embed(latents[:, :, 2:])
        moved = Run(backbone, grids[2], 900.0, text, start=start).embed(latents[:, :, 2:])
    torch.testing.assert_close(part, whole[:, whole.shape[1] // 2 :])
    assert not torch.allclose(part, moved)


@pytest.mark.parametrize(
    "cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("scales", [(3.0,), (3.0, 2.0)], ids=["2.1", "2.2"])
def test_a_queue_of_blocks_sees_the_image(cache: FeatureCache, scales: tuple[float, ...]) -> None:
    case = TinyCase(cache=cache, scales=scales)
    work = tiny_wan_i2v_denoising(case)
    found, other = (
        blocks(each, case)
        for each in (work, replace(tiny_wan_i2v_denoising(case), start=tiny_start(seed=1)))
    )
    assert sum(block.shape[2] for block in found) == case.latent_frames
    assert all(block.isfinite().all() for block in found)
    assert not torch.allclose(found[0], other[0], rtol=1e-2)
    assert not torch.allclose(found[-1], other[-1], rtol=1e-2)


@torch.no_grad()
def blocks(work: Denoising, case: TinyCase) -> list[Tensor]:
    events = SingleDevice().run(work, SingleDevice().layout(1, case.workload), 0)
    return [event.latents for event in events if isinstance(event, BlockDone)]


def test_the_spec_is_read_from_the_configuration(folders: dict[int, ModelFolder]) -> None:
    for experts, folder in folders.items():
        assert isinstance(family_of(folder), WanFamily)
        spec, tiny = WanFamily().spec(folder), tiny_wan_i2v_spec(experts)
        assert replace(spec, name=tiny.name) == tiny
        assert spec.channels == CHANNELS, "not those of the transformer's input"


@pytest.mark.parametrize("layers", [range(2), range(2, 4)], ids=str)
def test_a_rank_reads_its_layers_and_makes_what_the_whole_makes(
    folders: dict[int, ModelFolder], layers: range
) -> None:
    family, folder = WanFamily(), folders[1]
    spec = family.spec(folder)
    whole, part = (
        family.load_backbone(folder, spec, which, PLACE) for which in (range(LAYERS), layers)
    )
    prompts = join_prompts(split_prompts(tiny_wan_i2v_prompts(1)))
    with torch.no_grad():
        expected, found = (each.condition_text(prompts)[0] for each in (whole, part))
    assert list(found) == list(layers)
    for index in layers:
        assert len(found[index]) == 2, "text and image"
        for a, b in zip(found[index], expected[index], strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def test_a_model_that_continues_a_frame_needs_one(tmp_path: Path) -> None:
    request = Request(prompts=(PromptAt(text="x"),), num_frames=9, height=32, width=48)
    with pytest.raises(
        ConfigurationError, match=r"tiny Wan I2V continues a first frame.*data\.start"
    ):
        check_start(request, tiny_wan_i2v_spec())
    image = picture(tmp_path / "first.png")
    check_start(replace(request, start=str(image)), tiny_wan_i2v_spec())


@pytest.mark.parametrize(
    ("component", "changes", "words"),
    [
        (
            "transformer",
            {"pos_embed_seq_len": 514},
            "image positions 514, but its image encoder makes 5 tokens",
        ),
        ("transformer", {"in_channels": 9}, r"transformer of 5 input channels besides 4"),
        ("", {"image_encoder": [None, None]}, "needs an image_encoder"),
    ],
)
def test_other_image_models_are_refused(
    tmp_path: Path, component: str, changes: dict[str, Any], words: str
) -> None:
    folder = tiny_wan_i2v_folder(tmp_path)
    file = folder.path / component / ("config.json" if component else "model_index.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=words):
        WanFamily().spec(open_folder(str(tmp_path)))
