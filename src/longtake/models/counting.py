"""Counting of a model's operations and weights on the model itself, nothing loaded."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from longtake.models.base import AnyBackbone, Grid, Operand
from longtake.models.blank import META, BlankModel
from longtake.models.flops import Flops
from longtake.models.layers.kernel import attention_kernel, made
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.guard import reading
from longtake.models.loading.headers import read_headers
from longtake.models.meta_inputs import decode_until_frames, forward_inputs
from longtake.models.passes import Passes
from longtake.models.peak import FusedAttention, PeakMemory
from longtake.models.registry import registered
from longtake.models.spec import BackboneSpec
from longtake.task import FrameRange

NO_FLOPS: Final = Flops(embed=0.0, layer=0.0, attention=0.0, head=0.0, decode=0.0)
"""Where nothing is to be predicted."""
_SETTLED: Final = 3
"""How many times video frames come before they do as they will from then on, and a decoder's
state has its full size."""
_REMEMBERED: Final = 16
"""Models and sizes that are counted once."""
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
        scores: Scores of the same, each head's.
        moved: Bytes that one layer moves besides products, per video or text token.
        calls: Operations of one layer.
    """

    embed: float
    layer: float
    attention: float
    head: float
    scores: float
    moved: float = 0.0
    calls: float = 0.0


def count_flops(
    blank: BlankModel,
    height: int,
    width: int,
    weights: WeightCount | None = None,
    tile: tuple[int, int] | None = None,
) -> Flops:
    """Count floating-point operations on the meta device.

    Those of the transformer in a clip of its native length: a window's work on its text is shared
    by as many tokens as in an ordinary window.

    A family that cannot be built without its weights gets estimates of an ordinary transformer
    and VAE: predictions become rougher, results stay the same.

    Args:
        blank: The model.
        height: Latent height ``H``.
        width: Latent width ``W``.
        weights: Of the transformers: layers that have as many are counted once. ``None``: each
            layer is counted.
        tile: Latent height and width of what is decoded at once; ``None``: whole pictures.
    """
    spec, tile = blank.spec, tile or (height, width)
    alike = tuple(range(spec.layers)) if weights is None else weights.layers
    backbone = _backbone_of(blank, height, width, alike)
    decoder = decoder_cost(blank, *tile)
    scale = height * width / math.prod(tile)
    per_position = _estimate_decoder(spec) if decoder is None else decoder.flops / math.prod(tile)
    return Flops(
        embed=backbone.embed,
        layer=backbone.layer,
        attention=backbone.attention,
        head=backbone.head,
        decode=per_position * height * width,
        scores=backbone.scores,
        moved=backbone.moved,
        calls=backbone.calls,
        unfolded=0.0 if decoder is None else decoder.unfolded * scale,
        decode_moved=0.0 if decoder is None else decoder.moved * scale,
        thin=0.0 if decoder is None else decoder.thin * scale,
    )


@lru_cache(maxsize=_REMEMBERED)
def _backbone_of(blank: BlankModel, height: int, width: int, alike: tuple[int, ...]) -> _Backbone:
    """Return a transformer's operations; an ordinary one's where it cannot be built."""
    grid = Grid.of(FrameRange(0, blank.spec.native_frames), height=height, width=width)
    return _counted_or(lambda: _count_backbone(blank, grid, alike), _estimate_backbone(blank.spec))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderCost:
    """What decoding a latent frame takes in the midst of a video, of a whole picture or a tile.

    Args:
        flops: Operations.
        unfolded: Bytes of the matrices that a CPU unfolds small convolutions to.
        moved: Bytes that are read and written besides convolutions.
        thin: Operations of convolutions over the channels that each has least of.
        state: Bytes that are kept from one latent frame to the next.
        peak: The most bytes besides while one is decoded.
        workspace: The bytes that a CPU's convolutions add to that.
    """

    flops: float
    unfolded: float
    moved: float
    thin: float
    state: int
    peak: int
    workspace: int


@lru_cache(maxsize=_REMEMBERED)
def decoder_cost(blank: BlankModel, height: int, width: int) -> DecoderCost | None:
    """Count a decoder's operations and measure its memory, in one go; ``None``: it cannot be run.

    Args:
        blank: The model.
        height: Latent height ``H`` of what is decoded at once.
        width: Latent width ``W`` of it.
    """
    return _counted_or(lambda: _decoder_cost(blank, height, width), None)


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


def _count_backbone(blank: BlankModel, grid: Grid, alike: Sequence[int]) -> _Backbone:
    spec, kinds = blank.spec, Counter(alike)
    first = {kind: alike.index(kind) for kind in kinds}  # a layer of each kind
    backbone = blank.backbone
    latents, context = forward_inputs(blank, backbone, grid, attention_kernel)
    hidden, embed = _counted(lambda: backbone.embed(latents, grid, context))
    tokens = len(grid.frames) * spec.tokens_per_frame(grid.height, grid.width)

    layers, moved, calls = 0.0, 0.0, 0.0
    for kind, count in kinds.items():
        layer = partial(backbone.layer, first[kind], hidden, context, _no_attention)
        hidden, flops = _counted(layer, passes := Passes())
        layers += count * flops
        moved, calls = moved + count * passes.moved, calls + count * passes.calls
    _, head = _counted(lambda: backbone.head(hidden[:, :tokens], grid, context))
    return _Backbone(
        embed=embed / tokens,
        layer=layers / hidden.shape[1] / spec.layers,
        attention=4.0 * spec.model_dim * _seen(backbone),
        head=head / tokens,
        scores=spec.heads * _seen(backbone),
        moved=moved / hidden.shape[1] / spec.layers,
        calls=calls / spec.layers,
    )


def _no_attention(q: Operand, k: Operand, v: Operand) -> Tensor:
    """Stand in for self-attention's kernel, which grows with the keys, and is counted apart."""
    _, _, q = made(v), made(k), made(q)
    return q


def _seen(backbone: AnyBackbone) -> float:
    """Return the share of keys that a query sees, the mean of all layers."""
    groups = [backbone.token_groups(index) for index in range(backbone.spec.layers)]
    return sum(1.0 if group is None else 1.0 / group.count for group in groups) / len(groups)


def _decoder_cost(blank: BlankModel, height: int, width: int) -> DecoderCost:
    """Decode until video frames have come a few times; count from one time to the next.

    A decoder may hold some back, and its state is not whole before.
    """
    decoder = blank.decoder
    frame = torch.empty(1, blank.spec.channels, 1, height, width, device=META)
    with FusedAttention() as attention, ExitStack() as counting:
        with PeakMemory() as memory:
            state = decoder.start()
            for _ in range(_SETTLED):
                memory.begin()
                decode_until_frames(decoder, state, frame)
        attention.flops = 0.0
        # Below the other one, which so sees each operation whole.
        counter = counting.enter_context(FlopCounterMode(display=False))
        passes = counting.enter_context(Passes())
        with memory:
            memory.begin()
            frames = decode_until_frames(decoder, state, frame)
    return DecoderCost(
        flops=(counter.get_total_flops() + attention.flops) / frames,
        unfolded=passes.unfolded / frames,
        moved=passes.moved / frames,
        thin=passes.thin / frames,
        state=memory.live,
        peak=memory.peak - memory.live,
        workspace=memory.cpu_peak - memory.peak,
    )


def _counted(run: Callable[[], Tensor], passes: Passes | None = None) -> tuple[Tensor, float]:
    with FlopCounterMode(display=False) as counter, passes or nullcontext():  # it sees them whole
        result = run()
    return result, float(counter.get_total_flops())


def _estimate_backbone(spec: BackboneSpec) -> _Backbone:
    """Return what an ordinary transformer would take."""
    ends = 2.0 * math.prod(spec.patch) * spec.channels * spec.model_dim
    # Projections of both attentions and a feed-forward of four times the width.
    layer = 2.0 * (4 + 2 + 8) * spec.model_dim**2
    return _Backbone(
        embed=ends, layer=layer, attention=4.0 * spec.model_dim, head=ends, scores=spec.heads
    )


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
    if folder.holds(component) or (model := _built(folder, component)) is None:
        headers = read_headers(folder, component)
        return {key: math.prod(header.shape) for key, header in headers.items()}
    return {name: tensor.numel() for name, tensor in model.named_parameters()}


def _built(folder: ModelFolder, component: str) -> nn.Module | None:
    """Return a component on the meta device; ``None`` where nobody here has its class."""
    library = {"diffusers": diffusers, "transformers": transformers}.get(folder.library(component))
    model_class: Any = getattr(library, folder.class_name(component), None)
    family = registered().get(folder.pipeline)
    with reading(f"the {component} of the model in {folder.path}"), META:
        if model_class is None:
            return None if family is None else family().module(component, folder.config(component))
        if library is diffusers:
            return model_class.from_config(folder.config(component))  # type: ignore[no-any-return]
        return model_class(model_class.config_class(**folder.config(component)))  # type: ignore[no-any-return]


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
