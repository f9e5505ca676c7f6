"""Measures how closely a long video shows given pictures, and what happens around them.

    python benchmarks/keyframes.py --sheet docs/keyframes.png

Makes ``configs/demo-keyframes.yaml`` with the real command on 1 and on 2 devices, as PNG files, and
says whether they are equal to the bit. Of each picture, in its video frame:

- *PSNR*: to what the VAE makes of the picture alone, in dB;
- *block before, block after*: the object's largest way between two frames of the 32 before and
  after it, in median ways of the whole video (1: nothing to be seen), and
- *right*: share of these 64 frames that show the prompt's color and shape.

In brackets stands the same for a video of the same noise without pictures.

The contact sheet has a row for each: the picture, what the VAE makes of it, and frames around it.
With ``--latents`` it says instead, of the VAE alone, how far the video frames of a picture's latent
frame are from it where one latent frame of another video is replaced, and where two are.
``--draw`` draws the pictures of the configuration.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, machine, table

from longtake.demo import shapes
from longtake.demo.judge import judge
from longtake.models import AnyDecoder, ModelFolder, Placement, family_of, open_folder

CONFIG = ROOT / "configs" / "demo-keyframes.yaml"
PROMPT = "a red circle moving diagonally on a teal background"
DRAWN = {"first": (1, 0), "second": (5, 20), "third": (9, 3), "last": (12, 11)}
"""Seed of a rendered clip and the frame of it that is drawn, by file."""
BLOCK = 32
"""Video frames of a block."""
AROUND = (-32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32)
"""Video frames that a row of the sheet shows, counted from the picture's."""
PLAIN = ("--data.start", "null", "--data.end", "null", "--data.keyframes", "null")
"""What makes the configuration one without pictures."""
SIDE, TITLE = 72, 14
"""Pixels of a picture on the sheet, and of the line above it."""
OTHERS = ((2, 5), (3, 4), (7, 13), (8, 9))
"""Pictures for ``--latents``, as ``DRAWN``."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A given picture: its name, the video frame that shows it, its pixels and the VAE's of it."""

    name: str
    frame: int
    given: Tensor
    own: Tensor


def main() -> None:
    """Make the videos and print a table, or do what the options say instead."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sheet", type=Path, help="Contact sheet to write.")
    options.add_argument("--latents", action="store_true", help="Look at the VAE alone.")
    options.add_argument("--draw", action="store_true", help="Draw the configuration's pictures.")
    asked = options.parse_args()
    if asked.draw:
        draw()
    elif asked.latents:
        print(f"{machine()}\n\n{latents_table()}")
    else:
        video, pictures = made(1), shown()
        equal = "equal to the bit" if torch.equal(video, made(2)) else "NOT EQUAL"
        plain = made(1, *PLAIN)
        print(f"{machine()}; {len(video)} frames, 1 and 2 devices: {equal}\n")
        print(measures(video, plain, pictures))
        if asked.sheet is not None:
            sheet(video, pictures).save(asked.sheet, optimize=True)


def draw() -> None:
    """Draw the pictures that the configuration names."""
    folder = CONFIG.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, (seed, frame) in DRAWN.items():
        Image.fromarray(rendered(seed, frame).numpy()).save(folder / f"{name}.png", optimize=True)


def rendered(seed: int, frame: int, count: int = 1) -> Tensor:
    """Return a frame of a rendered clip, or ``count`` from it on, uint8 RGB."""
    clip = shapes.clip_of_prompt(PROMPT, torch.Generator().manual_seed(seed))
    pixels = (shapes.render_clips(clip, count, first_frame=frame)[0] + 1.0) * 127.5
    frames = pixels.round().to(torch.uint8).permute(1, 2, 3, 0)
    return frames if count > 1 else frames[0]


def made(devices: int, *options: str) -> Tensor:
    """Return the frames of the configuration's video, ``(F, height, width, 3)`` uint8."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "longtake", "predict", "--config", str(CONFIG)]
        command += ["--trainer.devices", str(devices), "--video.format", "png"]
        command += ["--video.zoom", "1", "--output", f"{folder}/run", *options]
        subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
        files = sorted(Path(folder, "run", "0000", "frames").glob("*.png"))
        return torch.stack([read(file) for file in files])


def read(file: Path) -> Tensor:
    """Return a picture's pixels."""
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def shown() -> list[Shown]:
    """Return the configuration's pictures, in the order of time."""
    data = yaml.safe_load(CONFIG.read_text())["data"]
    moments = [(round(one["at"] * data["fps"]), one["image"]) for one in data["keyframes"]]
    moments = [(0, data["start"]), *moments, (data["num_frames"] - 1, data["end"])]
    folder = open_folder("demo")
    decoder = family_of(folder).load_decoder(folder, torch.device("cpu"))
    found = []
    for frame, path in moments:
        given = read(ROOT / path)
        own = decoded(decoder, encoded(folder, given[None]))[0]
        found.append(Shown(Path(path).stem, frame, given, own))
    return found


def encoded(folder: ModelFolder, frames: Tensor) -> Tensor:
    """Return the latents of video frames."""
    return family_of(folder).encode_video(folder, frames, torch.device("cpu"))


@torch.no_grad()
def decoded(decoder: AnyDecoder, latents: Tensor) -> Tensor:
    """Return the video frames of latents, as files have them."""
    state = decoder.start()
    frames = torch.cat([*decoder.decode(state, latents), *decoder.finish(state)])
    return (frames * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def psnr(one: Tensor, other: Tensor) -> float:
    """Return how alike two pictures are, in dB."""
    error = (one.float() - other.float()).square().mean().clamp(min=1e-9)
    return float(10 * torch.log10(255**2 / error))


def measures(video: Tensor, plain: Tensor, pictures: list[Shown]) -> str:
    """Return what is to be said of each picture and the blocks around it, as a table."""
    judged, rows = [judge(one) for one in (video, plain)], []
    ways = [one.steps() / one.steps().nanmedian() for one in judged]
    right = [one.right(PROMPT).float() for one in judged]
    for one in pictures:
        begin, end = max(0, one.frame - BLOCK), one.frame + BLOCK
        likeness = psnr(video[one.frame], one.own)
        rows.append(
            [
                one.name,
                str(one.frame),
                "the same" if likeness > 100 else f"{likeness:.1f}",
                _both(largest(each[begin : one.frame]) for each in ways),
                _both(largest(each[one.frame : end]) for each in ways),
                _both(f"{100 * float(each[begin : end + 1].mean()):.0f} %" for each in right),
            ]
        )
    whole = _both(f"{100 * float(each.mean()):.0f} %" for each in right)
    rows.append(["whole video", "", "", _both(largest(each) for each in ways), "", whole])
    head = ["picture", "video frame", "PSNR, dB", "block before", "block after", "right"]
    return table(head, rows)


def _both(found: Iterable[str]) -> str:
    """Return a measure, and in brackets that of the video without pictures."""
    first, second = found
    return f"{first} ({second})" if first else ""


def largest(ways: Tensor) -> str:
    """Return the largest of some ways; nothing where there is none."""
    known = ways[~ways.isnan()]
    return f"{float(known.max()):.1f}" if len(known) else ""


def latents_table() -> str:
    """Return how alike a picture's video frames are with one and with two latent frames of it."""
    folder, rows = open_folder("demo"), []
    decoder = family_of(folder).load_decoder(folder, torch.device("cpu"))
    place, family = Placement(torch.device("cpu"), torch.float32), family_of(folder)
    spec = family.spec(folder)
    video = encoded(folder, rendered(0, 0, 33))
    likeness: dict[int, list[list[float]]] = {1: [], 2: []}
    for seed, frame in OTHERS:
        picture = rendered(seed, frame)
        own = decoded(decoder, encoded(folder, picture[None]))[0]
        still = family.encode_still(folder, spec, picture, 4, place)
        for count, found in likeness.items():
            latents = video.clone()
            for at in range(5 - count, 5):
                latents[:, :, at : at + 1] = still[at]
            found.append([psnr(one, own) for one in decoded(decoder, latents)[13:17]])
    for count, found in likeness.items():
        worst = [min(values) for values in zip(*found, strict=True)]
        rows.append([str(count), *(f"{value:.1f}" for value in worst)])
    return table(["latent frames replaced", *(f"video frame {n}" for n in range(1, 5))], rows)


def sheet(video: Tensor, pictures: list[Shown]) -> Image.Image:
    """Return the contact sheet."""
    columns, height = 2 + len(AROUND), SIDE + TITLE
    canvas = Image.new("RGB", (columns * SIDE, len(pictures) * height), "white")
    pen = ImageDraw.Draw(canvas)
    for row, one in enumerate(pictures):
        cells: list[tuple[str, Tensor | None]] = [("given", one.given), ("VAE's own", one.own)]
        for frame in (one.frame + offset for offset in AROUND):
            inside = 0 <= frame < len(video)
            cells.append((str(frame), video[frame]) if inside else ("", None))
        for column, (title, pixels) in enumerate(cells):
            left, top = column * SIDE, row * height
            pen.text((left + 3, top + 1), title, "black")
            if pixels is not None:
                picture = Image.fromarray(pixels.numpy()).resize((SIDE - 4, SIDE - 4))
                canvas.paste(picture, (left + 2, top + TITLE))
            if title == str(one.frame):
                corners = (left, top + TITLE - 2, left + SIDE - 1, top + height - 3)
                pen.rectangle(corners, outline="black", width=2)
    return canvas


if __name__ == "__main__":
    main()
