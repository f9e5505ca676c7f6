"""Counting of a model's operations and weights on the model itself, nothing loaded."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import diffusers
import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from longtake.models.base import AnyBackbone, Grid, Operand, Placement
from longtake.models.flops import Flops
from longtake.models.layers.kernel import attention_kernel, made
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.guard import reading
from longtake.models.loading.headers import read_headers
from longtake.models.meta_inputs import META, decode_until_frames, forward_inputs
from longtake.models.registry import ModelFamily
from longtake.models.spec import BackboneSpec
from longtake.task import FrameRange

NO_FLOPS: Final = Flops(embed=0.0, layer=0.0, attention=0.0, head=0.0, decode=0.0)
"""Where nothing is to be predicted."""
_POSITIONS: Final = 8
"""Height and width of the latents that are decoded."""
_SETTLED: Final = 2
"""How many times video frames come before they do as they will from then on."""
_PER_PIXEL: Final = 8e6
"""Operations of a VAE per pixel of the video, where it cannot be counted: Wan's."""

CountT = TypeVar("CountT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backbone:
    """Operations per token: of embedding, one layer without self-attention, and head.

    Args:
        embed: Per video token.
        layer: Per video or text token, the mean of all layers.
        attention: Of one layer's self-attention per query and key, the mean of all layers.
        head: Per video token.
    """

    embed: float
    layer: float
    attention: float
    head: float


def count_flops(
    family: ModelFamily,
    folder: ModelFolder,
    spec: BackboneSpec,
    height: int,
    width: int,
    weights: WeightCount | None = None,
) -> Flops:
    """Count floating-point operations on the meta device.

    Those of the transformer in a clip of its native length: a window's work on its text is shared
    by as many tokens as in an ordinary window.

    A family that cannot be built without its weights gets estimates of an ordinary transformer
    and VAE: predictions become rougher, results stay the same.

    Args:
        family: Knows the folder.
        folder: The pipeline folder.
        spec: Of the backbone.
        height: Latent height ``H``.
        width: Latent width ``W``.
        weights: Of the transformers: layers that have as many are counted once. ``None``: each
            layer is counted.
    """
    grid = Grid.of(FrameRange(0, spec.native_frames), height=height, width=width)
    alike = range(spec.layers) if weights is None else weights.layers
    backbone = _counted_or(
        lambda: _count_backbone(family, folder, spec, grid, alike), _estimate_backbone(spec)
    )
    decode = _counted_or(lambda: _count_decoder(family, folder, spec), _estimate_decoder(spec))
    return Flops(
        embed=backbone.embed,
        layer=backbone.layer,
        attention=backbone.attention,
        head=backbone.head,
        decode=decode * height * width,
    )


def _counted_or(count: Callable[[], CountT], estimate: CountT) -> CountT:
    try:
        with torch.no_grad(), NothingPadded():
            return count()
    except Exception:  # a plug-in's code may fail on the meta device in any way
        return estimate


class NothingPadded(TorchFunctionMode):
    """Lets models ask how many tokens of a prompt are padding where tensors have no values: 0."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.tolist and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu").tolist()
        return func(*args, **(kwargs or {}))


def _count_backbone(
    family: ModelFamily,
    folder: ModelFolder,
    spec: BackboneSpec,
    grid: Grid,
    alike: Sequence[int],
) -> _Backbone:
    place, kinds = Placement(META, torch.float32), Counter(alike)
    first = {kind: alike.index(kind) for kind in kinds}  # a layer of each kind
    needed = sorted({*first.values(), 0, spec.layers - 1})
    with reading(f"the transformer of the model in {folder.path}"):
        backbone = family.load_backbone(folder, spec, needed, place)
    latents, context = forward_inputs(
        family, folder, backbone, grid, attention_kernel, torch.float32
    )
    hidden, embed = _counted(lambda: backbone.embed(latents, grid, context))
    tokens = len(grid.frames) * spec.tokens_per_frame(grid.height, grid.width)

    layers = 0.0
    for kind, count in kinds.items():
        layer = partial(backbone.layer, first[kind], hidden, context, _no_attention)
        hidden, flops = _counted(layer)
        layers += count * flops
    _, head = _counted(lambda: backbone.head(hidden[:, :tokens], grid, context))
    return _Backbone(
        embed=embed / tokens,
        layer=layers / hidden.shape[1] / spec.layers,
        attention=4.0 * spec.model_dim * _seen(backbone),
        head=head / tokens,
    )


def _no_attention(q: Operand, k: Operand, v: Operand) -> Tensor:
    """Stand in for self-attention's kernel, which grows with the keys, and is counted apart."""
    _, _, q = made(v), made(k), made(q)
    return q


def _seen(backbone: AnyBackbone) -> float:
    """Return the share of keys that a query sees, the mean of all layers."""
    groups = [backbone.token_groups(index) for index in range(backbone.spec.layers)]
    return sum(1.0 if group is None else 1.0 / group.count for group in groups) / len(groups)


def _count_decoder(family: ModelFamily, folder: ModelFolder, spec: BackboneSpec) -> float:
    """Return operations per latent position of a latent frame in the midst of a video.

    They are counted from one time that video frames come to the next: a decoder may hold some
    back. What spatial tiles compute twice is left out.
    """
    with reading(f"the vae of the model in {folder.path}"):
        decoder = family.load_decoder(folder, META)
    state = decoder.start()
    frame = torch.empty(1, spec.channels, 1, _POSITIONS, _POSITIONS, device=META)
    for _ in range(_SETTLED):
        decode_until_frames(decoder, state, frame)
    with FlopCounterMode(display=False) as counter:
        frames = decode_until_frames(decoder, state, frame)
    return float(counter.get_total_flops()) / frames / _POSITIONS**2


def _counted(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, float(counter.get_total_flops())


def _estimate_backbone(spec: BackboneSpec) -> _Backbone:
    """Return what an ordinary transformer would take."""
    ends = 2.0 * math.prod(spec.patch) * spec.channels * spec.model_dim
    # Projections of both attentions and a feed-forward of four times the width.
    layer = 2.0 * (4 + 2 + 8) * spec.model_dim**2
    return _Backbone(embed=ends, layer=layer, attention=4.0 * spec.model_dim, head=ends)


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


def count_weights(
    folder: ModelFolder, components: Collection[str], layers: int, lists: Sequence[str] = ()
) -> WeightCount:
    """Count the weights of transformers.

    A tensor belongs to a layer when its name holds the layer's number (``blocks.12.ffn...``) in one
    of the lists of layers.

    Args:
        folder: The pipeline folder.
        components: Which transformers, such as the experts of Wan 2.2.
        layers: Layers of each.
        lists: Names of the lists of layers, in order; by default any that is as long as the model
            has layers.

    Raises:
        ModelError: As ``tensor_sizes``.
    """
    per_layer, rest = [0] * layers, 0
    for component in components:
        numbers = tensor_sizes(folder, component)
        of_layer = _layers_of(numbers, layers, lists)
        for key, count in numbers.items():
            if key in of_layer:
                per_layer[of_layer[key]] += count
            else:
                rest += count
    return WeightCount(layers=tuple(per_layer), rest=rest)


def tensor_sizes(folder: ModelFolder, component: str) -> dict[str, int]:
    """Return how many numbers each tensor of a component has.

    From its files' headers where they are here; otherwise the class that the folder names is built
    on the meta device.

    Args:
        folder: The pipeline folder.
        component: With weights: ``transformer``, ``text_encoder``, ...

    Raises:
        ModelError: The files are not here, and diffusers and transformers have no such class.
    """
    library = {"diffusers": diffusers, "transformers": transformers}.get(folder.library(component))
    model_class = getattr(library, folder.class_name(component), None)
    if model_class is None or folder.holds(component):
        headers = read_headers(folder, component)
        return {key: math.prod(header.shape) for key, header in headers.items()}
    with reading(f"the {component} of the model in {folder.path}"), META:
        if library is diffusers:
            model = model_class.from_config(folder.config(component))
        else:
            model = model_class(model_class.config_class(**folder.config(component)))
    return {name: tensor.numel() for name, tensor in model.named_parameters()}


def _layers_of(keys: Iterable[str], layers: int, lists: Sequence[str]) -> dict[str, int]:
    """Return the layer of each tensor that belongs to one."""
    listed: dict[str, dict[str, int]] = defaultdict(dict)
    for key in keys:
        if found := re.match(r"(.*?)\.(\d+)\.", key):
            listed[found[1]][key] = int(found[2])
    whole = set(range(layers))
    names = lists or [name for name, found in listed.items() if set(found.values()) == whole]
    of_layer: dict[str, int] = {}
    first = 0
    for name in names:
        of_layer |= {key: first + index for key, index in listed[name].items()}
        first += len(set(listed[name].values())) if lists else 0
    return of_layer
