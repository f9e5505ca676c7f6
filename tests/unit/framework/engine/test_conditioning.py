"""Starting from given frames: the file, what is kept of it, and the frames in the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, CogVideoXDDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ConfigurationError, ModelError
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.data import PromptData
from longtake.framework.engine.conditioning import check_start, kept_frames
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.models import (
    BackboneSpec,
    ConditioningFrames,
    DiffusersSampler,
    KnownFrames,
    ModelFolder,
)
from longtake.models.wan import WanFamily
from longtake.models.wan.encoder import WanEncoder
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import BlockDone, Denoising, SingleDevice
from longtake.task import FrameRange
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_wan_folder,
    tiny_wan_spec,
    tiny_wan_transformer,
    tiny_wan_vae,
)
from longtake.testing.tiny.parts import randomize

# numpy's complaint about diffusers' DPM-Solver++, harmless.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU = torch.device("cpu")
EULER = "FlowMatchEulerDiscreteScheduler"
SAMPLERS = {
    "UniPC": tiny_scheduler(),
    "Euler": tiny_scheduler(EULER),
    "DPM": tiny_scheduler("DPMSolverMultistepScheduler"),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The sampler of a block whose first frames are known.


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_frames_are_where_a_perfect_model_would_have_them(name: str) -> None:
    """On a straight flow the sampler itself says which latents belong to a noise level."""
    sampler, clean, noise = (
        DiffusersSampler(SAMPLERS[name], 5),
        random(1, 2, 3, 2, 2),
        random(1, 2, 5, 2, 2),
    )
    alone, known = (
        sampler.start(),
        KnownFrames(sampler.start(), (0, 1, 2), clean, noise[:, :, :3], 1.0),
    )
    found = known.hold(noise)
    expected = found[:, :, :3]
    # The first noise level of DPM is 0.9997, of the others 1.
    torch.testing.assert_close(expected, noise[:, :, :3], rtol=0, atol=2e-3)
    assert torch.equal(found[:, :, 3:], noise[:, :, 3:])
    for _ in range(5):
        expected = alone.step(noise[:, :, :3] - clean, expected)
        found = known.step(random(1, 2, 5, 2, 2, seed=3), found)
        torch.testing.assert_close(found[:, :, :3], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[:, :, :3], clean), "exactly, after the last step"


def test_levels_of_a_diffusion_are_those_of_its_scheduler() -> None:
    """Not a flow: the square roots of the cumulative product are the shares."""
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction")
    sampler, clean, noise = (
        DiffusersSampler(scheduler, 4),
        random(1, 2, 2, 2, 2),
        random(1, 2, 2, 2, 2, seed=1),
    )
    state = sampler.start()
    for timestep in sampler.timesteps:
        share = scheduler.alphas_cumprod[int(timestep)]
        expected = share.sqrt() * clean + (1 - share).sqrt() * noise
        torch.testing.assert_close(state.noised(clean, noise), expected)
        state.step(random(1, 2, 2, 2, 2, seed=2), noise)
    assert torch.equal(state.noised(clean, noise), clean)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_frames_leave_the_others_alone(name: str) -> None:
    """A block's sampler works element by element, whatever is put into its other frames."""
    sampler, noise = DiffusersSampler(SAMPLERS[name], 4), random(1, 2, 5, 2, 2)
    alone = sampler.start()
    known = KnownFrames(sampler.start(), (0, 1), random(1, 2, 2, 2, 2), noise[:, :, :2], 0.0)
    expected, found = noise, known.hold(noise)
    for step in range(4):
        prediction = random(1, 2, 5, 2, 2, seed=step)
        given = found.clone()
        expected, found = alone.step(prediction, expected), known.step(prediction, found)
        assert torch.equal(found[:, :, 2:], expected[:, :, 2:])
        assert torch.equal(found[:, :, :2], given[:, :, :2]), "clean at every step, without noise"


# Blocks that are known wholly and in part.


def started(case: TinyCase, known: int, seed: int = 7) -> Denoising:
    clean = random(1, CHANNELS, known, HEIGHT, WIDTH, seed=seed)
    return replace(tiny_denoising(case), start=ConditioningFrames(latents=clean))


@torch.no_grad()
def video(work: Denoising, case: TinyCase) -> Tensor:
    events = SingleDevice().run(work, SingleDevice().layout(1, case.workload), 0)
    return torch.cat([event.latents for event in events if isinstance(event, BlockDone)], dim=2)


@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=str)
@pytest.mark.parametrize("known", [1, 5, 7])
def test_a_video_begins_with_the_known_frames_and_is_changed_by_them(
    cache: FeatureCache, known: int
) -> None:
    """Blocks here are 5, 3, 3 latent frames: a part of one, one whole, one and a part."""
    case = TinyCase(cache=cache)
    work = started(case, known)
    assert work.start is not None
    found, plain, other = (
        video(each, case) for each in (work, tiny_denoising(case), started(case, known, seed=8))
    )
    assert torch.equal(found[:, :, :known], work.start.latents)
    assert found.shape == plain.shape
    for unlike in (plain, other):
        assert not torch.allclose(found[:, :, known:], unlike[:, :, known:], rtol=1e-2)


@pytest.mark.parametrize("share", [1.0, 0.5])
@torch.no_grad()
def test_replacement_is_the_published_loop(share: float) -> None:
    """Written out with the transformer's own forward: step, then put the known frames back.

    Published is a share of 1: the known frames have all of the others' noise.
    """
    case = TinyCase(
        scheduler=FullSequence(), latent_frames=4, steps=4, cache=NoCache(), sampler=EULER
    )
    work = replace(started(case, 2), start_noise=share)
    assert work.start is not None
    clean, noise = work.start.latents, next(tiny_denoising(case).noise)
    sigmas = DiffusersSampler(tiny_scheduler(EULER), 4).scheduler.sigmas
    transformer, prompts = tiny_wan_transformer(), tiny_prompts(2, 1)["states"]

    def put_back(latents: Tensor, sigma: Tensor) -> Tensor:
        known = (1 - share * sigma) * clean + share * sigma * noise[:, :, :2]
        return torch.cat([known, latents[:, :, 2:]], dim=2)

    latents = put_back(noise, sigmas[0])
    for step, (now, then) in enumerate(pairwise(sigmas)):
        timestep = torch.full((2,), work.sampler.timesteps[step])
        both = transformer(latents.expand(2, -1, -1, -1, -1), timestep, prompts)[0]
        guided = both[1:] + 5.0 * (both[:1] - both[1:])
        latents = put_back(latents + (then - now) * guided, then)
    found = video(work, case)
    assert (found - latents).abs().max() <= 1e-5 * latents.abs().max()


def test_known_frames_are_clean_where_the_timestep_may_differ_per_frame() -> None:
    case = TinyCase()
    work = started(case, 2)
    assert work.start is not None
    work.backbone.spec = replace(work.backbone.spec, timestep="frame")
    latents, steps = work.begin(FrameRange(0, 5), random(1, CHANNELS, 5, HEIGHT, WIDTH))
    for _ in range(case.steps):
        assert torch.equal(latents[:, :, :2], work.start.latents)
        latents = steps.step(random(1, CHANNELS, 5, HEIGHT, WIDTH, seed=1), latents)


# The VAE's encoder.


def big_patches() -> Any:
    """Return a VAE that joins pixels first, as those of Wan 2.2 TI2V and the demo do."""
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=CHANNELS, dim_mult=[1, 1, 1], num_res_blocks=1, in_channels=12,
        out_channels=12, patch_size=2, temperal_downsample=[True, True],
        latents_mean=[0.1] * 4, latents_std=[2.0] * 4,
    )  # fmt: skip
    return randomize(vae, 0)


@pytest.mark.parametrize("make", [tiny_wan_vae, big_patches])
@pytest.mark.parametrize(("shown", "blank"), [(1, 0), (9, 0), (1, 8), (5, 4)])
@torch.no_grad()
def test_encoding_is_that_of_diffusers(make: Any, shown: int, blank: int) -> None:
    frames = torch.randint(0, 256, (shown, 32, 48, 3), dtype=torch.uint8)
    pixels = torch.zeros(1, 3, shown + blank, 32, 48)
    pixels[0, :, :shown] = 2.0 * (frames.permute(3, 0, 1, 2) / 255.0) - 1.0
    vae = make()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    expected = (vae.encode(pixels).latent_dist.mode() - mean) * (1.0 / std)
    assert torch.equal(WanEncoder(make()).encode(frames, shown + blank), expected)


# Files.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a picture, and 33 frames as an animation and as a video."""
    root = tmp_path_factory.mktemp("files")
    pictures = [Image.fromarray(pixels(index)) for index in range(33)]
    pictures[0].save(root / "first.png")
    pictures[0].save(root / "first.jpg", quality=95)
    pictures[0].save(root / "clip.webp", save_all=True, append_images=pictures[1:], lossless=True)
    with av.open(str(root / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    (root / "note.txt").write_text("no picture")
    (root / "half.png").write_bytes((root / "first.png").read_bytes()[:80])
    (root / "half.mp4").write_bytes((root / "clip.mp4").read_bytes()[:900])
    return root


def pixels(index: int) -> np.ndarray[Any, Any]:
    """Return a smooth picture, 32 high and 48 wide, another one for each index."""
    y, x = np.mgrid[0:32, 0:48]
    return np.stack([5 * x, 7 * y, np.full_like(x, 7 * index)], axis=-1).astype(np.uint8)


def test_an_image_of_the_size_of_the_video_is_taken_as_it_is(files: Path) -> None:
    file = ConditioningFile(str(files / "first.png"))
    assert file.count() == 1
    assert torch.equal(file.last(1, 32, 48), torch.from_numpy(pixels(0))[None])
    jpeg = ConditioningFile(str(files / "first.jpg")).last(1, 32, 48)
    assert (jpeg.float() - torch.from_numpy(pixels(0)).float()).abs().mean() < 4


def test_another_shape_is_cropped_around_the_center(files: Path, tmp_path: Path) -> None:
    square = ConditioningFile(str(files / "first.png")).last(1, 32, 32)
    assert torch.equal(square[0], torch.from_numpy(pixels(0))[:, 8:40])
    half = ConditioningFile(str(files / "first.png")).last(1, 16, 24)
    assert half.shape == (1, 16, 24, 3)
    assert (half[0, :, :, 0].float().mean() - pixels(0)[:, :, 0].mean()).abs() < 2
    seen = Image.fromarray(pixels(0)).convert("RGBA")
    seen.save(tmp_path / "alpha.png")
    assert ConditioningFile(str(tmp_path / "alpha.png")).last(1, 32, 48).shape == (1, 32, 48, 3)
    turned = Image.fromarray(pixels(0)).rotate(-90, expand=True)  # as cameras write them
    exif = Image.Exif()
    exif[0x0112] = 8
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = ConditioningFile(str(tmp_path / "turned.png")).last(1, 32, 48)
    assert torch.equal(upright[0], torch.from_numpy(pixels(0)))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webp"])
def test_the_end_of_a_video_is_kept(files: Path, name: str) -> None:
    file = ConditioningFile(str(files / name))
    assert file.count() == 33
    kept = file.last(5, 32, 48)
    expected = torch.stack([torch.from_numpy(pixels(index)) for index in range(28, 33)])
    assert kept.shape == expected.shape
    assert (kept.float() - expected.float()).abs().mean() < (4 if name == "clip.mp4" else 1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.png", "but there is no such file"),
        ("", "a folder in which clip.mp4 is no picture"),
        ("note.txt", "cannot be read as an image"),
        ("half.png", "cannot be read as an image"),
        ("half.mp4", "cannot be read as an image"),
    ],
)
def test_a_file_that_shows_nothing_is_refused(files: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ConditioningFile(str(files / name))


# How much of a file is kept.


def request_for(start: Path | None, **changes: Any) -> Request:
    options = {"num_frames": 81, "height": 32, "width": 48, **changes}
    path = None if start is None else str(start)
    return Request(prompts=(PromptAt(text="red shape"),), start=path, **options)


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [
        ("first.png", {}, 1),
        ("first.png", {"start_frames": 1}, 1),
        ("clip.mp4", {}, 29),
        ("clip.mp4", {"num_frames": None}, 29),
        ("clip.mp4", {"num_frames": 21}, 17),
        ("clip.mp4", {"start_frames": 33}, 33),
        ("clip.mp4", {"start_frames": 5}, 5),
    ],
)
def test_how_many_frames_are_kept(
    files: Path, name: str, options: dict[str, Any], kept: int
) -> None:
    assert kept_frames(request_for(files / name, **options), tiny_wan_spec()) == kept


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("first.png", {"start_frames": 5}, r"first.png has 1 video frame; the most is 1\."),
        ("clip.mp4", {"start_frames": 37}, r"clip.mp4 has 33 video frames; the most is 33\."),
        ("clip.mp4", {"start_frames": 6}, r"start_frames is 6, but .* nearest are 5 and 9\."),
        ("clip.mp4", {"start_frames": 0}, r"start_frames is 0, but .* nearest are 1 and 5\."),
        (
            "clip.mp4",
            {"start_frames": 21, "num_frames": 21},
            r"num_frames is 21, some of which are to be made; the most is 17\.",
        ),
        (
            "first.png",
            {"num_frames": 1},
            r"num_frames is 1, but data.start gives 1 already.*is 5\.",
        ),
    ],
)
def test_more_than_there_is_cannot_be_kept(
    files: Path, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_start(request_for(files / name, **options), tiny_wan_spec())


def test_a_model_whose_frames_cannot_be_encoded_is_refused(files: Path) -> None:
    spec: BackboneSpec = replace(tiny_wan_spec(), start="refused")
    check_start(request_for(None), spec)
    with pytest.raises(ConfigurationError, match="cannot encode frames for tiny Wan yet"):
        check_start(request_for(files / "first.png"), spec)


def test_channels_for_given_frames_are_as_many_as_the_native_clip(files: Path) -> None:
    spec: BackboneSpec = replace(tiny_wan_spec(), start="channels", native_frames=5)
    assert kept_frames(request_for(files / "clip.mp4"), spec) == 13
    with pytest.raises(ConfigurationError, match="makes clips of 17; the most is 13"):
        check_start(request_for(files / "clip.mp4", start_frames=17), spec)


def test_a_line_of_jsonl_may_have_a_start_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a", "start": "b.mp4", "start_frames": 5}\n'
        '{"prompt": "b", "start": null}\n{"prompt": "c"}\n'
    )
    requests = PromptData(str(file), start="a.png").requests()
    assert [(each.start, each.start_frames) for each in requests] == [
        ("b.mp4", 5), (None, None), ("a.png", None)
    ]  # fmt: skip


# From file to video.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny")


def made(folder: ModelFolder, *requests: Request) -> Iterator[Tensor]:
    """Yield the video frames of each request, of one engine."""
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    engine = Engine(generation_config, SingleDevice())
    for request in requests:
        events = engine.generate(request)
        yield torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])


@torch.no_grad()
def test_the_video_begins_with_the_frames_as_the_vae_has_them(
    folder: ModelFolder, files: Path
) -> None:
    plain = request_for(None, num_frames=29)
    requests = [plain, replace(plain, start=str(files / "first.png"))]
    requests.append(replace(plain, start=str(files / "clip.webp"), start_frames=9))
    without, image, clip = made(folder, *requests)
    vae = AutoencoderKLWan.from_pretrained(folder.path / "vae")
    for found, kept, first in ((image, 1, 0), (clip, 9, 24)):
        shown = torch.stack([torch.from_numpy(pixels(first + index)) for index in range(kept)])
        latents = vae.encode(
            2.0 * (shown.permute(3, 0, 1, 2)[None] / 255.0) - 1.0
        ).latent_dist.mode()
        decoded = vae.decode(latents).sample[0].permute(1, 2, 3, 0)
        expected = (decoded * 127.5 + 127.5).round()
        assert found.shape == without.shape
        assert (found[:kept] - expected).abs().max() <= 1, "to rounding"
        assert not torch.equal(found[kept:], without[kept:])


def test_a_vae_without_an_encoder_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    other = tiny_wan_folder(tmp_path)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "encoder" not in k}, file)
    frames = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    with pytest.raises(ModelError, match=r"lacks the tensor encoder\."):
        WanFamily().encode_video(other, frames, CPU)


# What a viewer shows.

CASES = Path(__file__).parents[3] / "cases"


def shown(case: str, file: str, height: int, width: int) -> Tensor:
    """Return the only frame of a file, ``(height, width, 3)``."""
    return ConditioningFile(str(CASES / case / file)).last(1, height, width)[0]


def test_gray_of_16_bits_is_gray() -> None:
    """Of 86 and, in the last quadrant, 128 parts of 255."""
    with Image.open(CASES / "start-16-bit-gray" / "gray16.png") as image:
        width, height = image.size
    frame = shown("start-16-bit-gray", "gray16.png", height, width)
    assert torch.equal(frame[..., 0], frame[..., 1])
    assert abs(int(frame[height // 4, width // 4, 0]) - 86) <= 1
    assert abs(int(frame[3 * height // 4, 3 * width // 4, 0]) - 128) <= 1


def test_gray_of_floating_point_numbers_runs_from_0_to_1() -> None:
    with Image.open(CASES / "start-16-bit-gray" / "float.tif") as image:
        levels = torch.from_numpy(np.array(image))
    frame = shown("start-16-bit-gray", "float.tif", *levels.shape)
    expected = (255 * levels).round().clamp(0, 255)
    assert (frame[..., 0] - expected).abs().max() <= 1
    assert 0 < frame.float().mean() < 255


@pytest.mark.parametrize("file", ["alpha.png", "trans.gif"])
def test_hidden_pixels_stay_hidden(file: str) -> None:
    """What is transparent stands before white."""
    with Image.open(CASES / "start-transparent-image" / file) as image:
        width, height = image.size
        image.seek(getattr(image, "n_frames", 1) - 1)
        pixels = torch.from_numpy(np.array(image.convert("RGBA")))
    frame = shown("start-transparent-image", file, height, width)
    clear = pixels[..., 3] == 0
    assert clear.any()
    inner = clear.clone()
    inner[1:-1, 1:-1] = clear[1:-1, 1:-1] & clear[:-2, 1:-1] & clear[2:, 1:-1]
    assert bool((frame[inner] == 255).all())


def test_pixels_that_are_not_square_are_stretched() -> None:
    """A video of 160 by 96 whose pixels are twice as wide as high is 320 by 96."""
    file = ConditioningFile(str(CASES / "start-anamorphic-video" / "anamorphic.mp4"))
    count = file.count()
    height, width, _ = file.original(count).shape
    assert (width, height) == (320, 96)
