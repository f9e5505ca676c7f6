"""A model's size, in operations and in weights, counted on the model itself, nothing loaded."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from longtake.models.base import Grid, LayerContext, Placement
from longtake.models.folder import ModelFolder
from longtake.models.kernel import attention_kernel
from longtake.models.registry import ModelFamily
from longtake.models.spec import BackboneSpec
from longtake.plan import FrameRange
from longtake.plan.cost import Work

NO_WORK: Final = Work(embed=0.0, layer=0.0, attention=0.0, head=0.0, decode=0.0)
"""Where nothing is to be predicted."""
_PATCHES: Final = 8
"""Patches along height and width of the small window that is counted, and of its latents."""
_FRAMES: Final = 4
"""Latent frames that are decoded: the last one is decoded as all later ones are."""
_TOKENS: Final = 512
"""Tokens of a prompt where the tokenizer names no smaller number."""
_PER_PIXEL: Final = 8e6
"""Operations of a VAE per pixel of the video, where it cannot be counted: Wan's."""

CountT = TypeVar("CountT")


def count_work(
    family: ModelFamily, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
) -> Work:
    """Count floating-point operations on the meta device, and scale them to a size.

    A family that cannot be built without its weights gets estimates of an ordinary transformer
    and VAE: predictions become rougher, results stay the same.

    Args:
        family: Knows the folder.
        folder: The pipeline folder.
        spec: Of the backbone.
        height: Latent height ``H``.
        width: Latent width ``W``.
    """
    backbone = _counted_or(_estimate_backbone(spec), lambda: _count_backbone(family, folder, spec))
    decode = _counted_or(_estimate_decoder(spec), lambda: _count_decoder(family, folder, spec))
    embed, layer, head = backbone
    return Work(
        embed=embed,
        layer=layer,
        attention=4.0 * spec.model_dim,
        head=head,
        decode=decode * height * width,
    )


def _counted_or(estimate: CountT, count: Callable[[], CountT]) -> CountT:
    try:
        with torch.no_grad(), torch.device("meta"):
            return count()
    except Exception:  # a plug-in's code may fail on the meta device in any way
        return estimate


def _count_backbone(
    family: ModelFamily, folder: ModelFolder, spec: BackboneSpec
) -> tuple[float, float, float]:
    """Return operations per token of embedding, one layer without self-attention, and head."""
    place = Placement(torch.device("meta"), torch.float32)
    backbone = family.load_backbone(folder, spec, {0, spec.layers - 1}, place)
    height, width = (_PATCHES * patch for patch in spec.patch[1:])
    grid = Grid(frames=FrameRange(0, 1), height=height, width=width)
    step = backbone.condition_step(float(spec.train_timesteps - 1), guidance=1.0)
    context: LayerContext[Any, Any] = LayerContext(
        text=backbone.condition_text({"states": torch.empty(1, *_prompt_shape(folder))}),
        step=step,
        rotary=None if backbone.positions is None else backbone.positions.table(grid),
        kernel=attention_kernel,
        text_tokens=spec.text_tokens,
    )
    latents = torch.empty(1, spec.channels, 1, height, width)
    hidden, embed = _counted(lambda: backbone.embed(latents, grid, context))
    # Without the kernel of self-attention: it grows with the keys, and is counted apart.
    hidden, layer = _counted(lambda: backbone.layer(0, hidden, context, lambda q, k, v: q))
    _, head = _counted(lambda: backbone.head(hidden, grid, context))
    tokens = spec.tokens_per_frame(height, width)
    return embed / tokens, layer / tokens, head / tokens


def _count_decoder(family: ModelFamily, folder: ModelFolder, spec: BackboneSpec) -> float:
    """Return operations per latent position of a latent frame in the midst of a video."""
    decoder = family.load_decoder(folder, torch.device("meta"))
    state = decoder.start()
    latents = torch.empty(1, spec.channels, 1, _PATCHES, _PATCHES)
    for _ in range(_FRAMES - 1):
        list(decoder.decode(state, latents))
    _, decode = _counted(lambda: torch.cat(list(decoder.decode(state, latents))))
    return decode / _PATCHES**2


def _counted(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, float(counter.get_total_flops())


def _prompt_shape(folder: ModelFolder) -> tuple[int, int]:
    """Return tokens and width of what the text encoder gives, from its configuration."""
    encoder = folder.config("text_encoder")
    width = encoder.get("d_model") or encoder["hidden_size"]
    file = folder.path / "tokenizer" / "tokenizer_config.json"
    longest = json.loads(file.read_text()).get("model_max_length", _TOKENS)
    return min(_TOKENS, int(longest)), int(width)


def _estimate_backbone(spec: BackboneSpec) -> tuple[float, float, float]:
    """Return what an ordinary transformer would take."""
    ends = 2.0 * math.prod(spec.patch) * spec.channels * spec.model_dim
    # Projections of both attentions and a feed-forward of four times the width.
    return ends, 2.0 * (4 + 2 + 8) * spec.model_dim**2, ends


def _estimate_decoder(spec: BackboneSpec) -> float:
    return _PER_PIXEL * spec.compression.spatial**2 * spec.compression.temporal


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCount:
    """How many numbers the weights of some transformers are.

    Args:
        layers: Per layer.
        rest: Of everything outside the layers.
    """

    layers: tuple[int, ...]
    rest: int


def count_weights(folder: ModelFolder, components: Collection[str], layers: int) -> WeightCount:
    """Count the weights of transformers from their files' headers.

    A tensor belongs to a layer when its name holds the layer's number (``blocks.12.ffn...``) in a
    list that is as long as the model has layers.

    Args:
        folder: The pipeline folder, on this machine.
        components: Which transformers, such as the experts of Wan 2.2.
        layers: Layers of each.
    """
    per_layer, rest = [0] * layers, 0
    for component in components:
        numbers: dict[str, int] = {}
        for file in set(folder.weight_files(component).values()):
            with safe_open(file, framework="pt") as reader:
                for key in reader.keys():  # noqa: SIM118 (no mapping)
                    numbers[key] = math.prod(reader.get_slice(key).get_shape())
        listed: dict[str, dict[str, int]] = defaultdict(dict)
        for key in numbers:
            if found := re.match(r"(.*?)\.(\d+)\.", key):
                listed[found[1]][key] = int(found[2])
        of_layer = {
            key: index
            for keys in listed.values()
            if set(keys.values()) == set(range(layers))
            for key, index in keys.items()
        }
        for key, count in numbers.items():
            if key in of_layer:
                per_layer[of_layer[key]] += count
            else:
                rest += count
    return WeightCount(layers=tuple(per_layer), rest=rest)
