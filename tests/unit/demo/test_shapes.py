"""The synthetic clips and the judge that reads them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longtake.demo import judge, shapes


def _frames(video: Tensor) -> Tensor:
    """``(3, F, H, W)`` from -1 to 1 to uint8 ``(F, H, W, 3)``."""
    return ((video + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)


def _compressed(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Something like a video file's losses: soft edges, coarse color, blocks, a little noise."""
    x = frames.permute(0, 3, 1, 2).float()
    luma = x.mean(dim=1, keepdim=True)
    chroma = F.interpolate(F.avg_pool2d(x - luma, 2), scale_factor=2.0, mode="bilinear")
    x = F.avg_pool2d(luma, 3, stride=1, padding=1, count_include_pad=False) + chroma
    blocks = torch.randn(len(x), 3, x.shape[2] // 8, x.shape[3] // 8, generator=generator)
    x = x + 3.0 * F.interpolate(blocks, scale_factor=8.0)
    x = x + 5.0 * torch.randn(x.shape, generator=generator)
    return x.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def test_every_prompt_is_parsed_back() -> None:
    prompts = shapes.all_prompts()
    assert len(set(prompts)) == 216
    assert all(shapes.prompt(*shapes.parse_prompt(text)) == text for text in prompts)
    spoken = "a red circle moving vertically on an orange background"
    assert shapes.parse_prompt(spoken) == ("red", "circle", "vertically", "orange")


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red circle moving horizontally on a pink background"]
)
def test_other_prompts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt"):
        shapes.parse_prompt(text)
    with pytest.raises(ValueError, match="'pink' is not one of red"):
        shapes.prompt("pink", "circle", "vertically", "black")


def test_clips_repeat_and_continue() -> None:
    first = shapes.sample_clips(3, torch.Generator().manual_seed(5))
    second = shapes.sample_clips(3, torch.Generator().manual_seed(5))
    assert first.prompts() == second.prompts()
    whole = shapes.render_clips(first, 20)
    assert whole.shape == (3, 3, 20, 64, 64)
    assert torch.equal(whole[:, :, 8:], shapes.render_clips(second, 12, first_frame=8))
    assert whole.min() >= -1.0
    assert whole.max() <= 1.0


def test_shapes_move_evenly_and_stay_inside() -> None:
    clips = shapes.sample_clips(64, torch.Generator().manual_seed(0))
    center = shapes.centers(clips, 100)
    assert center.min() >= shapes.RADIUS - 1e-6
    assert center.max() <= 1.0 - shapes.RADIUS + 1e-6
    step = center.diff(dim=1).norm(dim=2)
    free = 1.0 - 2.0 * shapes.RADIUS
    assert step.max() <= shapes.SPEED * free * 1.001
    assert step.median().item() == pytest.approx(shapes.SPEED * free, rel=1e-3)
    edge = torch.ones(64, 64, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    covered = shapes.coverage(clips, 100)[..., edge]
    assert covered.max() < 0.84  # nothing is cut off: an edge on the border covers so much there


def test_every_prompt_can_be_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    for text in shapes.all_prompts()[::31]:
        assert shapes.clip_of_prompt(text, generator).prompts() == [text]


@pytest.mark.parametrize("lossy", [False, True])
def test_judge_reads_real_clips(lossy: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    clips = shapes.sample_clips(40, generator)
    videos, centers = shapes.render_clips(clips, 25), shapes.centers(clips, 25) * 64.0
    right, ground, frames = 0, 0, 0
    for video, text, center in zip(videos, clips.prompts(), centers, strict=True):
        shown = _compressed(_frames(video), generator) if lossy else _frames(video)
        seen = judge.judge(shown)
        right += int(seen.right(text).sum())
        ground += int(seen.right_background(text).sum())
        frames += len(shown)
        moved = seen.centers - center  # a triangle's mass lies below its center, always equally
        assert (moved - moved.mean(dim=0)).abs().max() < 0.5
        assert seen.color_spread() < (8.0 if lossy else 0.5)
    assert right / frames >= 0.99
    assert ground / frames >= 0.99


def test_judge_sees_what_is_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    text = shapes.prompt("red", "circle", "diagonally", "teal")
    good = _frames(shapes.render_clips(shapes.clip_of_prompt(text, generator), 12)[0])
    other = shapes.prompt("red", "square", "diagonally", "teal")
    wrong = _frames(shapes.render_clips(shapes.clip_of_prompt(other, generator), 12)[0])
    assert judge.adherence(good, text) == 1.0
    assert judge.adherence(wrong, text) == 0.0
    assert judge.adherence(torch.cat([good, wrong]), text) == 0.5
    empty = good[:, :, :1].expand(-1, -1, 64, -1).contiguous()
    blank = judge.judge(torch.full_like(empty, 90))
    assert blank.colors.eq(judge.NONE).all()
    assert blank.shapes.eq(judge.NONE).all()
    assert blank.centers.isnan().all()
    noise = torch.randint(0, 256, good.shape, generator=generator, dtype=torch.uint8)
    assert judge.adherence(noise, text) == 0.0


def test_seam_steps_find_a_jump() -> None:
    text = shapes.prompt("blue", "square", "horizontally", "black")
    clip = shapes.clip_of_prompt(text, torch.Generator().manual_seed(1))
    even = _frames(shapes.render_clips(clip, 40)[0])
    assert judge.seam_steps(even, [10, 20]) == pytest.approx([1.0, 1.0], abs=0.35)
    jumped = torch.cat([even[:10], even[13:]])
    ratio = judge.seam_steps(jumped, [10])[0]
    assert 2.0 < ratio < 4.5


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(2, 64, 64, 3), torch.zeros(2, 64, 32, 3, dtype=torch.uint8)],
    ids=["float", "oblong"],
)
def test_judge_refuses_other_frames(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        judge.judge(frames)
