"""End and keyframes: where they are, what is refused, and that every schedule shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from longtake.caches import NextBlockKV
from longtake.comm.communicator import Communicator
from longtake.errors import ConfigurationError
from longtake.framework import Engine, FramesDecoded, GenerationConfig, Keyframe, PromptAt, Request
from longtake.framework.data import PromptData
from longtake.framework.engine.encoded_conditioning import EncodedConditioning
from longtake.framework.engine.inputs import inputs_of
from longtake.framework.engine.pictures import check_pictures, pictures
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.timings import Timings
from longtake.models import (
    BackboneSpec,
    ConditioningFrames,
    GivenFrames,
    ModelFamily,
    ModelFolder,
    Placement,
    VideoFrames,
)
from longtake.models.wan import WanFamily
from longtake.models.wan.decoder import WanDecoder
from longtake.schedulers import FifoQueue, FrameQueue
from longtake.strategies import BlockDone, Denoising, SingleDevice
from longtake.strategies.runtime.cuts import CutState
from longtake.task import FrameRange
from longtake.testing.pairs import SCHEDULERS, allowed
from longtake.testing.resumption import TaskCuts
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_wan_folder,
    tiny_wan_spec,
)
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures of the video's size, ``0.png`` to ``3.png``, and others."""
    root = tmp_path_factory.mktemp("files")
    for index in range(4):
        save(root / f"{index}.png", 32, 48, index)
    save(root / "double.png", 64, 96, 0)
    save(root / "small.png", 16, 24, 0)
    save(root / "square.png", 48, 48, 0)
    frames = [Image.fromarray(np.full((32, 48, 3), 60 * index, np.uint8)) for index in range(3)]
    frames[0].save(root / "clip.gif", save_all=True, append_images=frames[1:])
    (root / "note.png").write_text("no picture")
    return root


def save(path: Path, height: int, width: int, seed: int) -> None:
    """Save a smooth picture."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60 * seed)], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def asked(files: Path, *at: tuple[float, str], **options: Any) -> Request:
    """Return a request of 45 video frames (12 latent ones) at 16 per second, with keyframes."""
    names = {"start", "end"} & options.keys()
    named = {name: str(files / options[name]) for name in names}
    settings: dict[str, Any] = {"num_frames": 45, "height": 32, "width": 48, **options, **named}
    keyframes = tuple(Keyframe(at=second, image=str(files / name)) for second, name in at)
    return Request(prompts=(PromptAt(text="red shape"),), keyframes=keyframes, **settings)


# Where they are.


@pytest.mark.parametrize(
    ("second", "latent_frame"),
    # Video frame 0 is a latent frame; then 1 to 4, 5 to 8, ...
    [(0.0, 0), (1 / 16, 1), (4 / 16, 1), (5 / 16, 2), (1.0, 4), (1.04, 5), (44 / 16, 11)],
)
def test_a_moment_is_in_the_latent_frame_of_its_video_frame(
    files: Path, second: float, latent_frame: int
) -> None:
    (found,) = pictures(asked(files, (second, "0.png")), tiny_wan_spec().compression)
    assert found.latent_frame == latent_frame


def test_the_end_is_the_last_latent_frame_and_comes_last(files: Path) -> None:
    request = asked(files, (2.0, "1.png"), (1.0, "2.png"), end="3.png")
    found = pictures(request, tiny_wan_spec().compression)
    assert [(one.kind, one.latent_frame) for one in found] == [
        ("keyframes", 4),
        ("keyframes", 8),
        ("end", 11),
    ]


def test_frames_are_held_block_by_block() -> None:
    first, third, fifth = random(1, 2, 2, 1, 1), random(1, 2, 1, 1, 1), random(1, 2, 1, 1, 1)
    known = ConditioningFrames(latents=first, keyframes={3: third, 5: fifth})
    places, latents = known.held(FrameRange(0, 4)) or ((), first)
    assert places == (0, 1, 3)
    assert torch.equal(latents, torch.cat([first, third], dim=2))
    places, latents = known.held(FrameRange(4, 8)) or ((), first)
    assert places == (1,)
    assert torch.equal(latents, fifth)
    assert known.held(FrameRange(6, 9)) is None
    assert [known.holds(frame) for frame in range(7)] == [True, True, False, True, False, True, 0]
    again = ConditioningFrames.of_states(known.states())
    assert torch.equal(again.keyframes[5], fifth)
    assert again.keyframes.keys() == {3, 5}


def test_input_channels_tell_of_later_frames() -> None:
    """Frames after the described ones are like the last of them, but for those that are named."""
    channels, tenth = random(1, 3, 2, 1, 1), random(1, 3, 1, 1, 1, seed=1)
    told = ConditioningFrames(
        latents=random(1, 2, 1, 1, 1), channels=channels, channels_at={10: tenth}
    )
    told = ConditioningFrames.of_states(told.states())
    found = told.channels_of((0, 1, 9, 10, 11))
    last = channels[:, :, 1:]
    assert torch.equal(found, torch.cat([channels[:, :, :1], last, last, tenth, last], dim=2))
    assert torch.equal(told.channels_of((10, 0))[:, :, :1], tenth)
    assert not told.holds(0), "the model makes it, and is told"


# What is refused.

REFUSED: dict[str, tuple[Callable[[Path], Request], str]] = {
    "after the end": (
        lambda files: asked(files, (2.9, "0.png")),
        r"at 2.9 s is .*0.png, but this video of 45 frames .* shows its last one at 2.75 s; "
        r"choose 0 to 2.75\.",
    ),
    "before the start": (lambda files: asked(files, (-1.0, "0.png")), r"at -1 s is .*choose 0 to"),
    "no time": (lambda files: asked(files, (float("nan"), "0.png")), r"at nan s is .*choose 0 to"),
    "never": (lambda files: asked(files, (float("inf"), "0.png")), r"at inf s is .*choose 0 to"),
    "one latent frame": (
        lambda files: asked(files, (1.05, "0.png"), (1.1, "1.png")),
        r"at 1.05 s is .*0.png and data.keyframes at 1.1 s is .*1.png, but a picture takes 2 "
        r"latent frames \(8 video frames\).* the earliest for the second is 1.5625 s\.",
    ),
    "one time": (lambda files: asked(files, (1.0, "0.png"), (1.0, "1.png")), "too close to each"),
    "at the end": (
        lambda files: asked(files, (2.7, "0.png"), end="1.png"),
        r"at 2.7 s is .* and data.end is .*1.png, but a picture takes 2 latent frames",
    ),
    "at the start": (
        lambda files: asked(files, (0.0, "0.png"), start="1.png"),
        r"at 0 s is .* data.start gives the first 1 video frame, .* earliest is 0.3125 s\.",
    ),
    "endless": (
        lambda files: asked(files, end="1.png", num_frames=None),
        r"data.end is .*1.png, but data.num_frames is null \(an endless video\)",
    ),
    "endless beyond reason": (
        lambda files: asked(files, (1e9, "0.png"), num_frames=None),
        r"at 1e\+09 s is .* in its first 24 hours; choose 0 to 86400\.",
    ),
    "missing": (lambda files: asked(files, (1.0, "none.png")), "at 1 s is .*there is no such file"),
    "unreadable": (lambda files: asked(files, end="note.png"), "data.end is .*cannot be read as"),
    "a video": (lambda files: asked(files, end="clip.gif"), "has 3 video frames, but one picture"),
    "another shape": (
        lambda files: asked(files, (1.0, "square.png")),
        r"48 x 48 pixels, but the video is 48 x 32, .* a part would be cut off; give one of 48 x",
    ),
    "smaller": (
        lambda files: asked(files, (1.0, "small.png")),
        r"24 x 16 pixels, but the video is 48 x 32, .* blur it; give one of 48 x 32, or larger\.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_cannot_be_shown_is_refused(name: str, files: Path) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ConfigurationError, match=words):
        check_pictures(make(files), tiny_wan_spec(), FifoQueue(3, 2))


def test_a_larger_picture_of_the_same_shape_is_taken(files: Path) -> None:
    check_pictures(asked(files, (1.0, "double.png")), tiny_wan_spec(), FifoQueue(3, 2))
    check_pictures(
        asked(files, (9e4 - 1e4, "0.png"), num_frames=None), tiny_wan_spec(), FifoQueue()
    )


def test_a_schedule_of_copies_and_a_model_without_an_encoder_are_named(files: Path) -> None:
    request = asked(files, (1.0, "0.png"))
    with pytest.raises(ConfigurationError, match=r"FrameQueue makes its blocks .* FifoQueue"):
        check_pictures(request, tiny_wan_spec(), FrameQueue(2, 2))
    refused = replace(tiny_wan_spec(), start="refused")
    with pytest.raises(ConfigurationError, match="cannot encode frames for tiny Wan yet"):
        check_pictures(request, refused, FifoQueue(3, 2))


# Lines of a file, and what a run writes down.


def test_a_line_of_jsonl_may_have_pictures_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a", "end": "e.png", "keyframes": [{"at": 12.5, "image": "x.png"}]}\n'
        '{"prompt": "b", "keyframes": null}\n{"prompt": "c"}\n'
    )
    default = [Keyframe(at=1.0, image="d.png")]
    requests = PromptData(str(file), keyframes=default).requests()
    assert [(each.end, each.keyframes) for each in requests] == [
        ("e.png", (Keyframe(at=12.5, image="x.png"),)), (None, ()), (None, tuple(default))
    ]  # fmt: skip
    for line in ('[{"at": 1}]', '["x.png"]', '[{"at": "1", "image": "x.png"}]', '"x.png"'):
        file.write_text('{"prompt": "a", "keyframes": ' + line + "}\n")
        with pytest.raises(ConfigurationError, match=r"line 1: .*(is no keyframe|cannot be)"):
            PromptData(str(file)).requests()


def test_pictures_are_written_down_with_where_and_what_they_are(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    request = asked(Path(), (1.0, "0.png"), end="1.png")
    (said,) = json.loads(json.dumps(inputs_of([request])))["requests"]
    assert said["end"] == str(files / "1.png")
    (keyframe,) = said["keyframes"]
    assert (keyframe["at"], keyframe["image"]) == (1.0, str(files / "0.png"))
    # Of 64 bytes each, and of what is in the file.
    assert len({said["end_checksum"], keyframe["checksum"]}) == 2
    (again,) = inputs_of([asked(files, (1.0, "1.png"), end="0.png")])["requests"]
    assert again["keyframes"][0]["checksum"] == said["end_checksum"]


# Every schedule shows them.


def placed(case: TinyCase, frame: int, seed: int = 7) -> Denoising:
    """Return the work of a case of which a latent frame is known."""
    clean = random(1, CHANNELS, 1, HEIGHT, WIDTH, seed=seed)
    none = clean[:, :, :0]
    known = ConditioningFrames(latents=none, keyframes={frame: clean})
    return replace(tiny_denoising(case), start=known)


@torch.no_grad()
def video(work: Denoising, case: TinyCase) -> Tensor:
    events = SingleDevice().run(work, SingleDevice().layout(1, case.workload), 0)
    return torch.cat([event.latents for event in events if isinstance(event, BlockDone)], dim=2)


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "FrameQueue"])
def test_every_schedule_shows_a_picture_and_what_is_beside_it_follows(scheduler: str) -> None:
    for name, case in allowed(scheduler).items():
        assert case.latent_frames is not None
        frame = case.latent_frames - 2
        found, other, plain = (
            video(work, case)
            for work in (placed(case, frame), placed(case, frame, 8), tiny_denoising(case))
        )
        expected = random(1, CHANNELS, 1, HEIGHT, WIDTH, seed=7)
        assert torch.equal(found[:, :, frame : frame + 1], expected), name
        for unlike in (plain, other):
            assert not torch.allclose(found[:, :, frame + 1], unlike[:, :, frame + 1], rtol=1e-2)
        if scheduler in ("FifoQueue", "ContextWindows"):  # blocks before it see it coming
            assert not torch.allclose(found[:, :, frame - 1], plain[:, :, frame - 1], rtol=1e-2)


@torch.no_grad()
def test_a_picture_is_held_on_by_a_request_that_goes_on() -> None:
    case, frame = TinyCase(cache=NextBlockKV()), 6
    cuts = TaskCuts((9,))
    work = replace(placed(case, frame), cuts=cuts)
    expected = video(work, case)
    (state,) = cuts.states
    on = replace(placed(case, frame), resumed=CutState.joined([state]))
    events = SingleDevice().run(on, SingleDevice().layout(1, case.workload), 0)
    for done in events:
        if isinstance(done, BlockDone):
            assert torch.equal(done.latents, expected[:, :, done.frames.start : done.frames.stop])


# From file to video.


@torch.no_grad()
def test_the_video_shows_the_pictures_as_the_vae_has_them(tmp_path: Path, files: Path) -> None:
    """At a picture the latents are those of the picture standing still, to the bit."""
    folder = tiny_wan_folder(tmp_path / "tiny")
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), steps=3, dtype="float32"
    )
    engine = Engine(generation_config, SingleDevice())
    request = asked(files, (1.25, "1.png"), start="0.png", end="3.png")
    events = list(engine.generate(request))
    latents = torch.cat([one.latents for one in events if isinstance(one, BlockDone)], dim=2)
    frames = torch.cat([one.frames for one in events if isinstance(one, FramesDecoded)])
    assert len(frames) == 45
    family = WanFamily()
    for name, at in (("0.png", (0,)), ("1.png", (4, 5)), ("3.png", (10, 11))):
        picture = torch.from_numpy(np.asarray(Image.open(files / name)).copy())
        still = family.encode_video(folder, picture.expand(9, 32, 48, 3), CPU)
        wanted = still[:, :, :1] if at == (0,) else still[:, :, 1:]
        assert torch.equal(latents[:, :, list(at)], wanted), name


# What a model takes natively.


@final
class _Told(ModelFamily):
    """Wan I2V's encoder that takes an end as well: notes what it is given."""

    def __init__(self) -> None:
        self.given: list[GivenFrames] = []

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        self.given.append(given)
        alone = replace(given, pictures={})
        start = WanFamily().encode_given(folder, spec, alone, place)
        assert start.channels is not None
        end = torch.ones_like(start.channels[:, :, :1])
        return replace(start, channels_at=dict.fromkeys(given.pictures, end))

    @override
    def encode_video(
        self, folder: ModelFolder, frames: VideoFrames, device: torch.device
    ) -> Tensor:
        return WanFamily().encode_video(folder, frames, device)

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        return WanFamily().spec(folder)

    @override
    def load_backbone(self, *args: Any) -> Any:
        raise NotImplementedError

    @override
    def load_decoder(self, *args: Any) -> WanDecoder:
        raise NotImplementedError

    @override
    def encode_text(self, *args: Any) -> Any:
        raise NotImplementedError


def test_a_model_is_told_of_the_kinds_that_are_its_own_and_the_others_are_held(
    tmp_path: Path, files: Path
) -> None:
    folder, family = tiny_wan_i2v_folder(tmp_path / "tiny"), _Told()
    config = GenerationConfig(pipeline=str(folder.path), dtype="float32")
    model = ResolvedModel(config, Placement(CPU, torch.float32))
    model.family, model.spec = family, replace(model.spec, native=("end",))
    request = asked(files, (1.25, "1.png"), start="0.png", end="3.png")
    encoded = EncodedConditioning(model, Timings())
    encoded.encode([request], Communicator.alone(), 0)
    start = encoded.of(request)
    assert start is not None
    (given,) = family.given
    assert given.pictures.keys() == {11}
    assert torch.equal(given.pictures[11], torch.from_numpy(np.array(Image.open(files / "3.png"))))
    assert (given.latent_frames, len(given.start)) == (12, 1)
    assert start.keyframes.keys() == {4, 5}, "the keyframe is held"
    assert start.channels_of((11,)).eq(1).all()
    assert not start.channels_of((10,)).eq(1).all()


def test_a_model_of_first_pictures_goes_on_from_the_first_frame_and_holds_the_others(
    tmp_path: Path, files: Path
) -> None:
    folder, family = tiny_wan_i2v_folder(tmp_path / "tiny"), _Told()
    config = GenerationConfig(pipeline=str(folder.path), dtype="float32")
    model = ResolvedModel(config, Placement(CPU, torch.float32))
    model.family, model.spec = family, replace(model.spec, native=())
    frames = [Image.fromarray(np.full((32, 48, 3), 20 * at, np.uint8)) for at in range(9)]
    clip = tmp_path / "clip.png"
    frames[0].save(clip, save_all=True, append_images=frames[1:])
    request = replace(asked(files), start=str(clip), start_frames=9)
    encoded = EncodedConditioning(model, Timings())
    encoded.encode([request], Communicator.alone(), 0)
    start = encoded.of(request)
    assert start is not None
    assert len(family.given[0].start) == 1
    assert start.keyframes.keys() == {1, 2}
    pixels = torch.stack([torch.from_numpy(np.array(frame)) for frame in frames])
    latents = WanFamily().encode_video(folder, pixels, CPU)
    assert torch.equal(
        torch.cat([start.keyframes[1], start.keyframes[2]], dim=2), latents[:, :, 1:]
    )
