"""Folders as they are published: each starts, and denoises as diffusers' own pipeline does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, LTXImageToVideoPipeline, UniPCMultistepScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor
from einops import rearrange
from PIL import Image
from tests.unit.models.kandinsky5.exact import exact_kandinsky5
from torch import Tensor
from transformers import AutoTokenizer

from longtake.caches import NoCache
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models import ModelFolder, Placement, family_of
from longtake.models.cogvideox import unpaired
from longtake.noise import NoiseSource
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.published import published_folder, published_names

# diffusers runs Mochi's rotations under autocast, which has no fp32 on CPUs.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

STEPS, LATENT_FRAMES, HEIGHT, WIDTH = 3, 3, 64, 96
PROMPT, NEGATIVE = "a golden fox jumps over the sea at night", "turns left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How a published model is asked for a video, here and in its pipeline.

    Args:
        scale: Of guidance.
        scale_2: Of the second expert.
        options: What its pipeline is called with besides.
    """

    scale: float = 5.0
    scale_2: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


FOLDED = "b c (f t) h w -> b (c t) f h w"
"""Two latent frames in one of twice the channels."""
LTX_EMBED: Any = LTXVideoRotaryPosEmbed.forward
EXPERTS = Case(scale=4.0, scale_2=3.0, options={"guidance_scale_2": 3.0})
CASES = {
    "Wan2.1-T2V": Case(),
    "Wan2.2-T2V-A14B": EXPERTS,
    "Wan2.2-TI2V-5B": Case(),
    "Wan2.1-I2V": Case(),
    "Wan2.1-FLF2V": Case(),
    "Wan2.2-I2V-A14B": EXPERTS,
    "SkyReels-V2-T2V": Case(scale=6.0),
    "SkyReels-V2-I2V": Case(),
    "SkyReels-V2-DF-1.3B": Case(scale=6.0),
    "SkyReels-V2-DF-14B": Case(scale=6.0),
    "HunyuanVideo": Case(scale=6.0),
    "HunyuanVideo-I2V": Case(scale=6.0),
    "HunyuanVideo-I2V-33ch": Case(scale=4.0, options={"true_cfg_scale": 4.0}),
    "HunyuanVideo-1.5": Case(scale=6.0),
    "HunyuanVideo-1.5-I2V": Case(scale=6.0),
    "Kandinsky-5.0-T2V-Lite": Case(),
    "Kandinsky-5.0-T2V-Lite-10s": Case(),
    "Kandinsky-5.0-I2V-Lite": Case(),
    "CogVideoX-2b": Case(scale=6.0),
    "CogVideoX-5b": Case(scale=6.0),
    "CogVideoX1.5-5B": Case(scale=6.0),
    "CogVideoX1.5-5B-I2V": Case(scale=6.0),
    "CogVideoX-5b-I2V": Case(scale=6.0),
    "LTX-Video-0.9.0": Case(scale=3.0),
    "LTX-Video-0.9.1": Case(scale=3.0),
    "LTX-Video-0.9.5": Case(scale=3.0),
    "LTX-Video-0.9.7": Case(scale=5.0),
    "mochi-1-preview": Case(scale=4.5),
}


# A thousand tokens of text, whatever the prompt, or of an image and text.
SLOW = ("HunyuanVideo-1.5", "HunyuanVideo-1.5-I2V", "HunyuanVideo-I2V-33ch")
MODELS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return published_folder(name, tmp_path_factory.mktemp("published") / name)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_every_model_has_its_case() -> None:
    assert published_names() == list(CASES)


def test_it_starts_and_is_the_pipeline(
    name: str, folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_called(name, monkeypatch)
    case, picture = CASES[name], None
    if "ImageToVideo" in folder.pipeline or "I2V" in folder.pipeline:
        picture = first_picture(tmp_path / "first.png")
    generation_config, request = recipe_of(folder, case), request_of(folder, picture)
    noise = noise_of(folder, generation_config)
    expected = denoised_by_diffusers(folder, case, request, noise)
    events = list(Engine(generation_config, SingleDevice()).generate(request))
    [found] = [event.latents for event in events if isinstance(event, BlockDone)]
    shown = found[:, :, -expected.shape[2] :]  # a pipeline may leave away its first latent frame
    assert (shown - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"
    frames = torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])
    assert frames.shape == (request.num_frames, request.height, request.width, 3)


@pytest.mark.parametrize("name", ["LTX-Video-0.9.0", "LTX-Video-0.9.5"], indirect=True)
def test_ltx_begins_with_an_image_as_its_pipeline(
    name: str, folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_called(name, monkeypatch)
    generation_config = recipe_of(folder, CASES[name])
    request = request_of(folder, first_picture(tmp_path / "first.png"))
    noise = noise_of(folder, generation_config)
    with Image.open(str(request.start)) as picture:
        pixels = torch.tensor(np.array(picture))
    latents = noise.clone()
    latents[:, :, :1] = family_of(folder).encode_video(folder, pixels[None], torch.device("cpu"))
    plain = pipeline_of(folder, noise)
    expected = denoised_by(LTXImageToVideoPipeline.from_pipe(plain), folder, request, latents)
    events = Engine(generation_config, SingleDevice()).generate(request)
    [found] = [event.latents for event in events if isinstance(event, BlockDone)]
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert torch.equal(found[:, :, :1], latents[:, :, :1])


def test_spaces_and_every_word_matter(folder: ModelFolder) -> None:
    prompts = [PROMPT, PROMPT.replace(" ", ""), PROMPT.replace("fox", "bird"), ""]
    place = Placement(torch.device("cpu"), torch.float32)
    encoded = family_of(folder).encode_text(folder, prompts, place)["states"]
    assert len({row.numpy().tobytes() for row in encoded}) == len(prompts)


def recipe_of(folder: ModelFolder, case: Case) -> GenerationConfig:
    return GenerationConfig(
        pipeline=str(folder.path),
        scheduler=FullSequence(),
        cache=NoCache(),
        steps=STEPS,
        guidance_scale=case.scale,
        guidance_scale_2=case.scale_2,
        dtype="float32",
    )


def request_of(folder: ModelFolder, picture: Path | None) -> Request:
    compression, (height, width) = family_of(folder).spec(folder).compression, size_of(folder)
    return Request(
        prompts=(PromptAt(text=PROMPT),),
        negative_prompt=NEGATIVE,
        num_frames=compression.video_frames(LATENT_FRAMES),
        height=height,
        width=width,
        fps=family_of(folder).defaults(folder).fps,
        start=None if picture is None else str(picture),
        end=str(picture) if family_of(folder).spec(folder).needs_end else None,
    )


def size_of(folder: ModelFolder) -> tuple[int, int]:
    """Return height and width of a video: two squares of tokens where attention chooses such."""
    square = 16 * family_of(folder).spec(folder).square
    return (HEIGHT, WIDTH) if square == 16 else (square, 2 * square)


def noise_of(folder: ModelFolder, generation_config: GenerationConfig) -> Tensor:
    """Return the noise that the engine starts from."""
    spec = family_of(folder).spec(folder)
    height, width = (pixels // spec.compression.spatial for pixels in size_of(folder))
    source = NoiseSource(seed=0, channels=spec.channels, height=height, width=width)
    blocks = generation_config.scheduler.blocks(LATENT_FRAMES)
    return torch.cat(list(generation_config.noise.blocks(source, blocks)), dim=2)


def first_picture(file: Path) -> Path:
    """Save a picture that no resizing changes."""
    pixels = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(3))
    Image.fromarray(pixels.byte().numpy()).save(file)
    return file


def denoised_by_diffusers(
    folder: ModelFolder, case: Case, request: Request, noise: Tensor
) -> Tensor:
    """Return the latents that the folder's own pipeline makes, ``(1, C, F, H, W)``."""
    return denoised_by(pipeline_of(folder, noise), folder, request, noise, case)


def denoised_by(
    pipeline: Any, folder: ModelFolder, request: Request, noise: Tensor, case: Case | None = None
) -> Tensor:
    """Return the latents that a pipeline makes, ``(1, C, F, H, W)``."""
    case = case or Case(scale=3.0)
    options: dict[str, Any] = {"guidance_scale": case.scale, **case.options}
    if folder.pipeline.startswith("HunyuanVideo15"):
        options = {}  # its folder says it
    if folder.pipeline != "HunyuanVideo15ImageToVideoPipeline":  # that one asks the picture
        options |= {"height": request.height, "width": request.width}
    if request.start is not None:
        with Image.open(request.start) as picture:
            options["image"] = picture.copy()
            if request.end is not None:
                options["last_image"] = picture.copy()
    latents: Tensor = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=request.num_frames,
        num_inference_steps=STEPS,
        latents=packed(folder, noise),
        output_type="latent",
        **options,
    ).frames
    return unpacked(folder, latents, noise.shape)


def pipeline_of(folder: ModelFolder, noise: Tensor) -> Any:
    parts = {}
    if folder.pipeline in ("HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline"):
        # By the class that the index names it would drop the prompt's spaces (transformers 5.23).
        parts["tokenizer"] = AutoTokenizer.from_pretrained(folder.path / "tokenizer")
    pipeline = DiffusionPipeline.from_pretrained(folder.path, **parts)
    pipeline.set_progress_bar_config(disable=True)
    if folder.pipeline == "SkyReelsV2DiffusionForcingPipeline":
        # It cannot take latents of its own (diffusers 0.42): it would unpack them.
        pipeline.prepare_latents = lambda *_, **__: (noise.clone(), LATENT_FRAMES, None, 0)
        pipeline.scheduler = Remembering.from_config(pipeline.scheduler.config)
    if folder.pipeline == "LTXConditionPipeline":
        # It takes no noise: latents that it is given are a video to begin from.
        prepare = pipeline.prepare_latents
        pipeline.prepare_latents = lambda *given, **options: (
            noise.flatten(2).transpose(1, 2),
            *prepare(*given, **options)[1:],
        )
    if folder.pipeline == "Kandinsky5I2VPipeline":
        # It takes latents for what it would make of noise and an image.
        prepare_given = pipeline.prepare_latents
        pipeline.prepare_latents = lambda latents, **options: torch.cat(
            [
                torch.cat([prepare_given(**options)[:, :1, ..., :16], latents[:, 1:, ..., :16]], 1),
                prepare_given(**options)[..., 16:],
            ],
            dim=-1,
        )
        # What it does to finished latents is done here as they are decoded, and has a test there.
        pipeline.normalize_first_frame = lambda latents: latents
    if folder.pipeline.startswith("SkyReelsV2"):
        # As the pipelines' own examples do: the folders' schedulers say no shift.
        scheduler = pipeline.scheduler
        shift = 5.0 if "ImageToVideo" in folder.pipeline else 8.0
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, flow_shift=shift)
    return pipeline


class Remembering(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC that remembers the sample as it was.

    The diffusion forcing pipeline writes a step's result into the very tensor that the solver
    remembers as the sample before the step, which its second step then corrects wrongly.
    """

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        return super().step(prediction, timestep, sample.clone(), **options)


def packed(folder: ModelFolder, latents: Tensor) -> Tensor:
    """Return latents as the pipeline takes them."""
    if folder.pipeline.startswith("CogVideoX"):
        pairs = folder.config("transformer")["patch_size_t"] is not None
        return (unpaired(latents) if pairs else latents).transpose(1, 2)
    if folder.pipeline.startswith("Kandinsky5"):  # with nothing given, and the mask of that
        last = latents.movedim(1, -1)
        return torch.cat([last, torch.zeros_like(last), torch.zeros_like(last[..., :1])], dim=-1)
    if folder.pipeline == "LTXPipeline":
        return latents.flatten(2).transpose(1, 2)
    return latents.clone()


def unpacked(folder: ModelFolder, latents: Tensor, shape: torch.Size) -> Tensor:
    """Return a pipeline's latents as ``(1, C, F, H, W)``."""
    if folder.pipeline.startswith("CogVideoX"):
        latents = latents.transpose(1, 2)
        pairs = folder.config("transformer")["patch_size_t"] is not None
        return rearrange(latents, FOLDED, t=2) if pairs else latents
    if folder.pipeline.startswith("Kandinsky5"):
        return latents.movedim(-1, 1)
    if folder.pipeline == "LTXPipeline":
        return latents.transpose(1, 2).reshape(shape)
    return latents


def exact_places(rope: Any, hidden: Tensor, *sizes: Any) -> Any:
    """Embed places that the pipeline gives (since LTX-Video 0.9.5), those in float64."""
    *others, places = sizes
    if places is not None:
        rates = torch.tensor([25, 1, 1], dtype=torch.float64)[None, :, None]
        places = (places * rates).round() / rates
    return LTX_EMBED(rope, hidden, *others, video_coords=places)


def as_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from diffusers what makes its pipelines' videos depend on more than their inputs."""
    if name.startswith("LTX"):
        monkeypatch.setattr(LTXVideoRotaryPosEmbed, "_prepare_video_coords", exact_coordinates)
        monkeypatch.setattr(LTXVideoRotaryPosEmbed, "forward", exact_places)
    if "CogVideoX" in name or "LTX" in name or "Kandinsky" in name:
        # They draw a sample of the image's latents; here both have their mean.
        monkeypatch.setattr(
            DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
        )
    if name.startswith("Kandinsky"):
        exact_kandinsky5(monkeypatch)
    if name == "HunyuanVideo-1.5-I2V":  # it would choose one of the real model's sizes
        monkeypatch.setattr(
            HunyuanVideo15ImageProcessor,
            "calculate_default_height_width",
            lambda *_, **__: (HEIGHT, WIDTH),
        )


def exact_coordinates(
    rope: Any, rows: int, *size: int, rope_interpolation_scale: tuple[float, ...], **_: Any
) -> Tensor:
    """Return LTX-Video's places in float64: in fp32 the pipeline's own angles are 0.001 off."""
    axes = [torch.arange(count, dtype=torch.float64) for count in size]
    bases = torch.tensor([rope.base_num_frames, rope.base_height, rope.base_width])
    scale = torch.tensor(rope_interpolation_scale, dtype=torch.float64) / bases
    return (torch.cartesian_prod(*axes) * scale).expand(rows, -1, -1)
