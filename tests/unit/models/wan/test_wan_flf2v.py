"""Wan between two pictures: 2.1 FLF2V and 2.2 I2V with a last one, as diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor

from longtake.caches import NextBlockKV, NoCache
from longtake.errors import ConfigurationError
from longtake.framework.engine.conditioning import check_start
from longtake.framework.engine.request import PromptAt, Request
from longtake.models import (
    AnyBackbone,
    ConditioningFrames,
    GivenFrames,
    ModelFolder,
    Placement,
    PromptStates,
    load_sampler,
)
from longtake.models.wan import WanFamily
from longtake.schedulers import FullSequence
from longtake.task import Video
from longtake.testing.contracts import BackboneContract
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase, tiny_denoising
from longtake.testing.tiny.parts import of_backbone
from longtake.testing.tiny.wan_i2v import (
    IMAGE_TOKENS,
    TEXT_TOKENS,
    tiny_ends,
    tiny_start,
    tiny_wan_i2v_backbone,
    tiny_wan_i2v_folder,
    tiny_wan_i2v_prompts,
    tiny_wan_i2v_spec,
    tiny_wan_i2v_transformer,
)

PLACE = Placement(torch.device("cpu"), torch.float32)
PROMPTS = ["a red shape moves left", "the blue bird"]
STEPS, FRAMES, NATIVE = 2, 3, 21


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    path = tmp_path_factory.mktemp("ends")
    return {
        "2.1": tiny_wan_i2v_folder(path / "one", images=2),
        "2.2": tiny_wan_i2v_folder(path / "two", experts=2),
    }


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (HEIGHT * 8, WIDTH * 8, 3), generator=generator).byte()


def ends(folder: ModelFolder, latent_frames: int, last: int = 2) -> ConditioningFrames:
    given = GivenFrames(
        start=picture(1)[None],
        pictures={latent_frames - 1: picture(last)},
        latent_frames=latent_frames,
    )
    family = WanFamily()
    return family.encode_given(folder, family.spec(folder), given, PLACE)


class TestFirstAndLastFrameBackbone(BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        return tiny_wan_i2v_backbone(range(LAYERS) if layers is None else layers, images=2)

    def prompts(self) -> PromptStates:
        return tiny_wan_i2v_prompts(2, images=2)

    def start(self) -> ConditioningFrames:
        """Alike in all frames, as the suite wants it."""
        return tiny_start(described=1)

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        rows, channels = len(latents), self.start().channels
        assert channels is not None
        beside = channels.expand(rows, -1, latents.shape[2], -1, -1)
        out: Tensor = tiny_wan_i2v_transformer(images=2)(
            torch.cat([latents, beside], dim=1),
            torch.full((rows,), timestep),
            prompts["states"],
            prompts["image"].reshape(2 * rows, IMAGE_TOKENS, -1),  # a row for each image
            return_dict=False,
        )[0]
        return out


def noise() -> Tensor:
    shape = (1, CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def full_sequence(folder: ModelFolder, scales: tuple[float, ...], last: int) -> Tensor:
    """Denoise as ``longtake`` does from a folder, prompts and both pictures included."""
    family, case = WanFamily(), TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=scales)
    spec, start = family.spec(folder), ends(folder, FRAMES, last)
    work = of_backbone(
        tiny_denoising(case),
        family.load_backbone(folder, spec, range(LAYERS), PLACE),
        family.encode_text(folder, PROMPTS, PLACE) | start.prompt_rows(2),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise()]),
        sampler=load_sampler(folder, None, None, STEPS),
        start=start,
    )
    return serial_video(work)


@pytest.mark.parametrize(
    ("name", "scales"), [("2.1", (5.0,)), ("2.1", (1.0,)), ("2.2", (4.0, 3.0))]
)
def test_a_full_sequence_is_the_pipeline(
    folders: dict[str, ModelFolder], name: str, scales: tuple[float, ...]
) -> None:
    pipeline = WanImageToVideoPipeline.from_pretrained(folders[name].path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=Image.fromarray(picture(1).numpy()),
        last_image=Image.fromarray(picture(2).numpy()),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=scales[0],
        latents=noise(),
        output_type="latent",
        max_sequence_length=TEXT_TOKENS,
        **({"guidance_scale_2": scales[1]} if name == "2.2" else {}),
    ).frames
    found = full_sequence(folders[name], scales, 2)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    other = full_sequence(folders[name], scales, 3)
    assert (found - other).abs().max() > 1e-2 * expected.abs().max(), "the last image is not seen"


def test_the_last_frame_of_a_long_video_is_that_of_a_native_clip(
    folders: dict[str, ModelFolder],
) -> None:
    pipeline = WanImageToVideoPipeline.from_pretrained(folders["2.2"].path)
    first, last = (picture(seed).permute(2, 0, 1)[None] / 127.5 - 1.0 for seed in (1, 2))
    _, clip = pipeline.prepare_latents(
        first,
        batch_size=1,
        num_channels_latents=CHANNELS,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (NATIVE - 1),
        dtype=torch.float32,
        device=PLACE.device,
        last_image=last,
    )
    native, long = ends(folders["2.2"], NATIVE), ends(folders["2.2"], 100)
    found = native.channels_of(tuple(range(NATIVE)))
    torch.testing.assert_close(found, clip, rtol=1e-5, atol=1e-5)
    spread = long.channels_of((0, 19, 20, 98, 99))
    # The midst is like the last gray frame of the clip; only the very last one is like its end.
    for place, frame in enumerate((0, 19, 19, 19, 20)):
        assert torch.equal(spread[:, :, place], found[:, :, frame])
    assert spread[:, :4, -1].flatten(2).amax(dim=2).tolist() == [[0.0, 0.0, 0.0, 1.0]]
    assert not spread[:, :4, 1:-1].any()


@pytest.mark.parametrize("frames", [11, 14])
def test_the_last_block_of_a_queue_sees_the_end(frames: int) -> None:
    videos = []
    for seed in (0, 1):
        case = TinyCase(cache=NextBlockKV(), latent_frames=frames, scales=(1.0,))
        backbone, work = tiny_wan_i2v_backbone(images=2), tiny_denoising(case)
        start = tiny_ends(frames)
        if seed:
            end = {frames - 1: tiny_ends(frames, seed).channels_at[frames - 1]}
            start = ConditioningFrames(
                latents=start.latents,
                channels=start.channels,
                prompts=start.prompts,
                channels_at=end,
            )
        prompts = tiny_wan_i2v_prompts(1, images=2)
        videos.append(serial_video(of_backbone(work, backbone, prompts, start=start)))
    change = (videos[0] - videos[1]).abs().amax(dim=(0, 1, 3, 4))
    assert change[-1] > 0.05, "the last frame is not seen"
    # The block before has the last one after it in its window.
    assert change[-6:-3].max() > 1e-4


def test_the_card_and_the_spec_say_it(folders: dict[str, ModelFolder]) -> None:
    family = WanFamily()
    spec = family.spec(folders["2.1"])
    assert spec.needs_end
    assert not family.spec(folders["2.2"]).needs_end
    assert family.card(folders["2.1"]).model == "Wan 2.1 FLF2V"
    blank = family.blank_start(folders["2.1"], spec, HEIGHT, WIDTH)
    assert blank is not None
    made = ends(folders["2.1"], FRAMES)
    assert blank.prompts["image"].shape == made.prompts["image"].shape
    assert made.prompts["image"].shape[1] == 2 * IMAGE_TOKENS


def test_ends_travel_between_ranks() -> None:
    made = tiny_ends(14)
    again = ConditioningFrames.of_states(made.states()).to(PLACE.device)
    frames = tuple(range(10, 14))
    assert torch.equal(again.channels_of(frames), made.channels_of(frames))
    assert list(again.channels_at) == [13]


def test_without_an_end_it_is_refused() -> None:
    request = Request(prompts=(PromptAt(text="x"),), num_frames=9, height=32, width=48)
    with pytest.raises(ConfigurationError, match="between a first and a last picture"):
        check_start(request, tiny_wan_i2v_spec(images=2))
