"""A plug-in: everything longtake needs to run ``sketch_dit.SketchDiT``, a model it does not know.

``run_plug_in.py`` makes a video with it. A package of yours names its module in the entry-point
group ``longtake.models``; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast, final

import torch
from einops import rearrange
from torch import Tensor, nn

import longtake.api as lt
from longtake.api import ModelFolder as Folder
from sketch_dit import CHANNELS, LETTERS, PIXELS, SketchDiT, SketchVAE

Condition = lt.Condition[Tensor, Tensor]
Prompts = lt.PromptStates


@final
class SketchBackbone(lt.Backbone[Tensor, Tensor]):
    def __init__(self, spec: lt.BackboneSpec, dit: SketchDiT) -> None:
        super().__init__(spec, positions=None)
        self._dit = dit

    def condition_text(self, prompts: Prompts) -> Tensor:
        return cast(Tensor, self._dit.text(prompts["letters"]).mean(1, keepdim=True))

    def condition_step(self, timestep: float, guidance: float) -> Tensor:
        share = torch.full((1, 1, 1), timestep / 1000)
        return cast(Tensor, self._dit.time(share.to(self._dit.time.weight)))

    def embed(self, latents: Tensor, grid: lt.Grid, condition: Condition) -> Tensor:
        weight = self._dit.patch.weight  # where everything is, and in which dtype
        frames = torch.tensor(grid.positions, device=weight.device) % 64
        positions = self._dit.frame(frames).repeat_interleave(grid.height * grid.width, 0)
        tokens = latents.to(weight).flatten(2).transpose(1, 2)
        return cast(Tensor, positions + self._dit.patch(tokens))

    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: lt.LayerContext[Tensor, Tensor],
        attend: lt.Attend,
    ) -> Tensor:
        return cast(Tensor, self._dit.layers[index](hidden, context.text + context.step, attend))

    def head(self, hidden: Tensor, grid: lt.Grid, condition: Condition) -> Tensor:
        return lt.unpatchify(self._dit.head(hidden), grid, self.spec)


@final
class SketchDecoder(lt.VideoDecoder[None]):
    def __init__(self, vae: SketchVAE) -> None:
        self._vae = vae

    def start(self) -> None:
        return None  # frames do not depend on one another

    def decode(self, state: None, latents: Tensor) -> Iterator[Tensor]:
        for frame in latents.to(self._vae.pixels.weight).unbind(2):
            pixels = self._vae.pixels(frame.movedim(1, -1)).clamp(-1, 1)
            yield rearrange(pixels, "b h w (c p q) -> b c (h p) (w q)", p=PIXELS, q=PIXELS)


@final
@lt.register("SketchPipeline")
class SketchFamily(lt.ModelFamily):
    def spec(self, folder: Folder) -> lt.BackboneSpec:
        dit = folder.config("transformer")
        return lt.BackboneSpec(
            name="SketchDiT", channels=CHANNELS, patch=(1, 1, 1), native_frames=16,
            heads=dit["heads"], head_dim=dit["dim"] // dit["heads"], layers=dit["layers"],
            compression=lt.Compression(temporal=1, spatial=PIXELS),
        )  # fmt: skip

    def load_backbone(
        self, folder: Folder, spec: lt.BackboneSpec, layers: Collection[int], place: lt.Placement
    ) -> SketchBackbone:
        def prune(dit: SketchDiT) -> None:
            for index in set(range(spec.layers)).difference(layers):
                dit.layers[index] = nn.Identity()  # not here: not read from disk

        dit = lt.load_module(folder, "transformer", lambda c: SketchDiT(**c), place, prune=prune)
        return SketchBackbone(spec, dit)

    def load_decoder(
        self, folder: Folder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> SketchDecoder:
        place = lt.Placement(device, dtype)
        return SketchDecoder(lt.load_module(folder, "vae", lambda _: SketchVAE(), place))

    def encode_text(self, folder: Folder, prompts: Sequence[str], place: lt.Placement) -> Prompts:
        counts = [[[prompt.count(letter) for letter in LETTERS]] for prompt in prompts]
        return {"letters": torch.tensor(counts, dtype=place.dtype)}
