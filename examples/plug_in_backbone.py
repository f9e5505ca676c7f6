"""A complete plug-in: a small diffusion transformer that the package does not know.

Learned positions instead of rotary ones, and a VAE of one linear layer. Run it: it saves random
weights, opens them like any model folder and makes a video. A package of yours names its module
in the entry-point group ``longtake.models`` and needs nothing else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

import longtake.models as lm
from longtake.caches import NextBlockKV
from longtake.models.patches import unpatchify
from longtake.models.weights import load_module
from longtake.noise import Independent, NoiseSource
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, Denoising, Guidance, Mesh, SingleDevice

CHANNELS, PIXELS, LETTERS, CPU = 4, 8, "etaoinsh", torch.device("cpu")


# 1. The model, as its authors wrote it.


class Model(nn.Module):
    """What ``load_module`` asks of a class that is not diffusers' own."""

    _keep_in_fp32_modules: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Model:
        """Build the module from its configuration file."""
        return cls(**config)


class Layer(nn.Module):
    """Self-attention and a feed-forward, both conditioned by addition."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, condition: Tensor, attend: lm.Attend) -> Tensor:
        """Run the layer on ``(B, S, M)``."""
        qkv = self.qkv(self.norm(x + condition)).unflatten(2, (3 * self.heads, -1))
        x = x + self.out(attend(*qkv.chunk(3, 2)).flatten(2))
        out: Tensor = x + self.mlp(x + condition)
        return out


class SketchDiT(Model):
    """The transformer; a token is one latent position."""

    def __init__(self, dim: int = 24, heads: int = 2, layers: int = 3) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(CHANNELS, dim), nn.Linear(dim, CHANNELS)
        self.frame = nn.Embedding(64, dim)  # positions repeat after 64 frames
        self.text, self.time = nn.Linear(len(LETTERS), dim), nn.Linear(1, dim)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))


class SketchVAE(Model):
    """A latent position is 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Linear(CHANNELS, 3 * PIXELS**2)


# 2. The plug-in.


@final
class SketchBackbone(lm.Backbone[Tensor, Tensor]):
    """``SketchDiT`` as longtake sees it."""

    def __init__(self, spec: lm.BackboneSpec, dit: Any) -> None:
        super().__init__(spec, positions=None)
        self._dit = dit

    @override
    def condition_text(self, prompt_BLM: Tensor) -> Tensor:
        text: Tensor = self._dit.text(prompt_BLM).mean(1, keepdim=True)
        return text

    @override
    def condition_step(self, timestep: float) -> Tensor:
        step: Tensor = self._dit.time(torch.full((1, 1, 1), timestep / 1000))
        return step

    @override
    def embed(self, latents: Tensor, grid: lm.Grid, step: Tensor) -> Tensor:
        frames = torch.arange(grid.frames.start, grid.frames.stop) % 64
        positions: Tensor = self._dit.frame(frames).repeat_interleave(grid.height * grid.width, 0)
        hidden: Tensor = positions + self._dit.patch(latents.flatten(2).transpose(1, 2))
        return hidden

    @override
    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: lm.LayerContext[Tensor, Tensor],
        attend: lm.Attend,
    ) -> Tensor:
        out: Tensor = self._dit.layers[index](hidden, context.text + context.step, attend)
        return out

    @override
    def head(self, hidden: Tensor, grid: lm.Grid, step: Tensor) -> Tensor:
        return unpatchify(self._dit.head(hidden), grid, self.spec)


@final
class SketchDecoder(lm.VideoDecoder[None]):
    """``SketchVAE`` as longtake sees it: frames do not depend on one another."""

    def __init__(self, vae: SketchVAE) -> None:
        self._vae = vae

    @override
    def start(self) -> None:
        return None

    @override
    def decode(self, state: None, latents: Tensor) -> Iterator[Tensor]:
        for frame in latents.unbind(2):
            pixels = self._vae.pixels(frame.movedim(1, -1)).clamp(-1, 1)
            yield rearrange(pixels, "b h w (c p q) -> b c (h p) (w q)", p=PIXELS, q=PIXELS)


@final
@lm.register("SketchPipeline")
class SketchFamily(lm.ModelFamily):
    """Folders whose ``model_index.json`` names a SketchPipeline."""

    @override
    def spec(self, folder: lm.ModelFolder) -> lm.BackboneSpec:
        config = folder.config("transformer")
        return lm.BackboneSpec(
            name=folder.path.name,
            channels=CHANNELS,
            patch=(1, 1, 1),
            heads=config["heads"],
            head_dim=config["dim"] // config["heads"],
            layers=config["layers"],
            native_frames=16,
            compression=lm.Compression(temporal=1, spatial=PIXELS),
        )

    @override
    def load_backbone(
        self,
        folder: lm.ModelFolder,
        spec: lm.BackboneSpec,
        layers: Collection[int],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> SketchBackbone:
        def prune(dit: SketchDiT) -> None:
            for index in set(range(spec.layers)).difference(layers):
                dit.layers[index] = nn.Identity()

        dit = load_module(folder, "transformer", SketchDiT, device=device, dtype=dtype, prune=prune)
        return SketchBackbone(spec, dit)

    @override
    def load_decoder(self, folder: lm.ModelFolder, *, device: torch.device) -> SketchDecoder:
        vae = load_module(folder, "vae", SketchVAE, device=device, dtype=torch.float32)
        return SketchDecoder(vae)

    @override
    def encode_text(
        self,
        folder: lm.ModelFolder,
        prompts: Sequence[str],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        counts = [[float(prompt.count(letter)) for letter in LETTERS] for prompt in prompts]
        return torch.tensor(counts, dtype=dtype)[:, None]


# 3. A run.


def make_folder(path: Path) -> lm.ModelFolder:
    """Save random weights as a model folder."""
    torch.manual_seed(0)
    dit = {"dim": 24, "heads": 2, "layers": 3}
    for name, model, config in (("transformer", SketchDiT(**dit), dit), ("vae", SketchVAE(), {})):
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text(json.dumps(config))
        save_file(model.state_dict(), path / name / "model.safetensors")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.save_pretrained(path / "scheduler")
    index = {"_class_name": "SketchPipeline", "scheduler": ["diffusers", type(scheduler).__name__]}
    (path / "model_index.json").write_text(json.dumps(index))
    return lm.open_folder(str(path))


@torch.no_grad()
def make_video(folder: lm.ModelFolder, prompt: str, latent_frames: int) -> Tensor:
    """Return a video ``(frames, 3, height, width)``."""
    family, queue = lm.family_of(folder), FifoQueue(block_frames=4, context_frames=2)
    spec = family.spec(folder)
    fp32 = torch.float32
    backbone = family.load_backbone(folder, spec, range(spec.layers), device=CPU, dtype=fp32)
    text = backbone.condition_text(family.encode_text(folder, [prompt, ""], device=CPU, dtype=fp32))
    source = NoiseSource(seed=0, request=0, channels=CHANNELS, height=6, width=8)
    work = Denoising(
        backbone=backbone,
        tasks=queue.tasks(latent_frames, steps=5),
        noise=Independent().blocks(source, queue.blocks(latent_frames)),
        cache=NextBlockKV(),
        sampler=lm.Sampler(lm.load_scheduler(folder, None, None), steps=5),
        guidance=Guidance(scales=(4.0,)),
        text=lambda _frames: text,
        height=source.height,
        width=source.width,
        device=CPU,
    )
    decoder, frames = family.load_decoder(folder, device=CPU), list[Tensor]()
    state = decoder.start()
    for event in SingleDevice().run(work, Mesh(), rank=0):
        if isinstance(event, BlockDone):
            frames.extend(decoder.decode(state, event.latents))
    return torch.cat(frames)


def main() -> None:
    """Make a video with random weights."""
    with tempfile.TemporaryDirectory() as path:
        print(tuple(make_video(make_folder(Path(path)), "a bird in the sky", 20).shape))


if __name__ == "__main__":
    main()
