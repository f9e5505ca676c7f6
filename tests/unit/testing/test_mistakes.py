"""Mistakes of plug-ins, set in one by one: a suite or preflight refuses each, by layer and kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError, ModelError
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    Attend,
    Backbone,
    BackboneSpec,
    Condition,
    Grid,
    LayerContext,
    ModelFamily,
    ModelFolder,
    Operand,
    Placement,
    PromptStates,
)
from longtake.models.blank import BlankModel
from longtake.models.layer_check import check_layers
from longtake.models.layers.kernel import attention_kernel, made
from longtake.models.wan.family import WanFamily
from longtake.plan.check.layouts import check_layout
from longtake.strategies import Layout, Mesh, ParallelStrategy, SingleDevice, Workload
from longtake.testing.contracts import BackboneContract, ParallelStrategyContract
from longtake.testing.differences import kind_of_difference
from longtake.testing.recording import hidden_states
from longtake.testing.tiny.base import (
    LAYERS,
    TinyCase,
    tiny_prompts,
    tiny_wan_backbone,
    tiny_wan_folder,
    tiny_wan_transformer,
)

WRONG: Final = 2
"""The layer with the mistake."""
Layer = Callable[[Tensor, Any, Attend], Tensor]


class Mistaken(Backbone):  # type: ignore[type-arg]
    """Wan, with a mistake in one layer: a subclass changes it."""

    def __init__(self, inner: AnyBackbone) -> None:
        self._inner = inner
        super().__init__(inner.spec, inner.positions)

    def condition_text(self, prompts: PromptStates) -> object:
        return self._inner.condition_text(prompts)

    def condition_step(self, timestep: float, guidance: float) -> object:
        return self._inner.condition_step(timestep, guidance)

    def embed(self, latents: Tensor, grid: Grid, condition: Condition[Any, Any]) -> Tensor:
        return self._inner.embed(latents, grid, condition)

    def layer(
        self, index: int, hidden: Tensor, context: LayerContext[Any, Any], attend: Attend
    ) -> Tensor:
        def inner(hidden: Tensor, context: LayerContext[Any, Any], attend: Attend) -> Tensor:
            return self._inner.layer(index, hidden, context, attend)

        if index != WRONG:
            return inner(hidden, context, attend)
        return self.wrong(hidden, context, attend, inner)

    def head(self, hidden: Tensor, grid: Grid, condition: Condition[Any, Any]) -> Tensor:
        return self._inner.head(hidden, grid, condition)

    def wrong(
        self, hidden: Tensor, context: LayerContext[Any, Any], attend: Attend, inner: Layer
    ) -> Tensor:
        """Run the layer with the mistake."""
        return inner(hidden, context, self.operands(attend))

    def operands(self, attend: Attend) -> Attend:
        """Change what the layer gives ``attend``, or what it gets."""

        def changed(q: Operand, k: Operand, v: Operand) -> Tensor:
            return attend(*self.change(made(q), made(k), made(v)))

        return changed

    def change(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change the operands."""
        return q, k, v


class Uncast(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(hidden, context, attend) * torch.ones(1, device=hidden.device)[None]


class UncastKeys(Mistaken):
    def change(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k.float(), v


class Mixes(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(hidden, context, attend) + 0.1 * hidden.mean(1, keepdim=True)


class NormsOverTokens(Mistaken):
    def change(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v - v.mean(1, keepdim=True)


class Swapped(Mistaken):
    def operands(self, attend: Attend) -> Attend:
        def changed(q: Operand, k: Operand, v: Operand) -> Tensor:
            return attend(*(made(one).transpose(1, 2) for one in (q, k, v))).transpose(1, 2)

        return changed


class Flat(Mistaken):
    def operands(self, attend: Attend) -> Attend:
        def changed(q: Operand, k: Operand, v: Operand) -> Tensor:
            shape = made(q).shape
            return attend(*(made(one).flatten(2) for one in (q, k, v))).view(shape)

        return changed


class HeadsAsRows(Mistaken):
    def operands(self, attend: Attend) -> Attend:
        def changed(q: Operand, k: Operand, v: Operand) -> Tensor:
            rows, _, heads, _ = made(q).shape
            folded = (made(one).transpose(1, 2).flatten(0, 1) for one in (q, k, v))
            out: Tensor = attend(*folded)
            return out.reshape(rows, heads, *out.shape[1:]).transpose(1, 2)

        return changed


class Bypasses(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(hidden, context, lambda q, k, v: attention_kernel(made(q), made(k), made(v)))


class CallsTwice(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(inner(hidden, context, attend), context, attend)


class LosesAToken(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(hidden, context, attend)[:, :-1]


class InPlace(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return hidden.copy_(inner(hidden, context, attend))


class ScalesTwice(Mistaken):
    def change(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q * 12**-0.5, k, v


class OtherLayer(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return self._inner.layer(WRONG - 1, hidden, context, attend)


class OneBranch(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        out = inner(hidden, context, attend)
        return torch.cat([out[:1], hidden[1:]])


class Doubled(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return 2 * inner(hidden, context, attend)


class TurnsTokens(Mistaken):
    def wrong(self, hidden: Tensor, context: Any, attend: Attend, inner: Layer) -> Tensor:
        return inner(hidden, context, attend).flip(1)


def suite_of(mistake: type[Mistaken] | None) -> BackboneContract:
    def load(layers: Collection[int]) -> AnyBackbone:
        inner = tiny_wan_backbone(layers)
        return inner if mistake is None else mistake(inner)

    model = tiny_wan_transformer()  # diffusers' own, of the same weights

    class Suite(BackboneContract):
        def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
            return load(range(LAYERS) if layers is None else layers)

        def prompts(self) -> PromptStates:
            return tiny_prompts(2)

        def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
            rows = len(prompts["states"])
            found: Tensor = model(
                latents.expand(rows, -1, -1, -1, -1),
                torch.tensor([timestep]).expand(rows),
                prompts["states"],
                return_dict=False,
            )[0]
            return found

        def layer_oracle(
            self, latents: Tensor, timestep: float, prompts: PromptStates
        ) -> Sequence[Tensor]:
            run = partial(self.oracle, latents, timestep, prompts)
            return hidden_states(list(model.blocks), run)

    return Suite()


@torch.no_grad()
@pytest.mark.parametrize(
    ("mistake", "test", "message"),
    [
        (Uncast, "layers_compute_in_the_dtype", "layer 2 returns hidden states in float32 that"),
        (UncastKeys, "layers_compute_in_the_dtype", "layer 2 gives attend .*keys in float32"),
        (Mixes, "mixes_tokens", "layer 2 mixes tokens outside attend: what comes out for token"),
        (NormsOverTokens, "mixes_tokens", "layer 2 mixes tokens outside attend"),
        (Swapped, "operands_of_BSND", "layer 2 gives attend .* tokens and heads are swapped"),
        (Flat, "operands_of_BSND", "layer 2 gives .* unflatten the last dim into heads"),
        (HeadsAsRows, "operands_of_BSND", "layer 2 .* heads are a dim of their own, not rows"),
        (Bypasses, "operands_of_BSND", "layer 2 did not call attend exactly once"),
        (CallsTwice, "operands_of_BSND", "layer 2 did not call attend exactly once"),
        (LosesAToken, "operands_of_BSND", "layer 2 changes the shape"),
        (InPlace, "keeps_no_state", "layer 2 changes its input in place"),
        (ScalesTwice, "each_layer", "layer 2 is not the model's own"),
        (OtherLayer, "each_layer", "layer 2 is not the model's own"),
        (OneBranch, "each_layer", r"layer 2 is not .* apart, only in row 1 of 2"),
        (Doubled, "each_layer", "layer 2 is not .* everything is 2 times as large"),
        (TurnsTokens, "each_layer", r"layer 2 .* the same numbers in another order: tokens \[17,"),
    ],
)
def test_a_mistake_in_a_layer_is_refused_by_name(
    mistake: type[Mistaken], test: str, message: str
) -> None:
    names = [name for name in dir(BackboneContract) if test in name]
    assert len(names) == 1, names
    getattr(suite_of(None), names[0])()  # it is the mistake that is refused
    with pytest.raises(AssertionError, match=message):
        getattr(suite_of(mistake), names[0])()


class MistakenFamily(ModelFamily):
    """Wan from a folder, with a mistake in a layer."""

    inner = WanFamily()

    def __init__(self, mistake: type[Mistaken]) -> None:
        self.mistake = mistake

    def spec(self, folder: ModelFolder) -> BackboneSpec:
        return self.inner.spec(folder)

    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> AnyBackbone:
        return self.mistake(self.inner.load_backbone(folder, spec, layers, place))

    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> AnyDecoder:
        raise NotImplementedError

    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_wan_folder(tmp_path_factory.mktemp("wan") / "model")


def test_preflight_lets_what_is_right_pass(folder: ModelFolder) -> None:
    family = MistakenFamily(Mistaken)
    check_layers(BlankModel(family, folder, family.spec(folder), torch.bfloat16))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (Uncast, "layer 2 of .* returns hidden states in float32 that came in bfloat16"),
        (UncastKeys, r"layer 2 of .* gives attend .*keys in float32"),
        (Swapped, r"layer 2 of .* queries of shape \(1, 2, 32, 12\).* swapped"),
        (Flat, "layer 2 of .* unflatten the last dim"),
        (HeadsAsRows, "layer 2 of .* not rows of the batch"),
        (Bypasses, "layer 2 of .* calls attend 0 times"),
        (CallsTwice, "layer 2 of .* calls attend 2 times"),
        (LosesAToken, r"layer 2 of .* changes the shape of the hidden states"),
    ],
)
def test_preflight_refuses_a_mistake_before_weights_are_read(
    mistake: type[Mistaken], message: str, folder: ModelFolder
) -> None:
    family = MistakenFamily(mistake)
    with pytest.raises(ModelError, match=message):
        check_layers(BlankModel(family, folder, family.spec(folder), torch.bfloat16))


class LastRankFirst(Layout):
    """A layout whose video would come out on another rank."""

    @property
    def output_rank(self) -> int:
        return 1


class Lays(ParallelStrategy):
    """A strategy with a mistake in its layout."""

    def __init__(self, layout: Callable[[Layout], Layout]) -> None:
        self._layout = layout

    def layout(self, world_size: int, workload: Workload) -> Layout:
        whole = Layout.serial(workload.spec.layers, workload.branches)
        return self._layout(replace(whole, mesh=Mesh()))


def elsewhere(layout: Layout) -> Layout:
    return LastRankFirst(mesh=layout.mesh, stages=layout.stages, batches=layout.batches)


LAYOUTS: Final[list[tuple[Callable[[Layout], Layout], str]]] = [
    (elsewhere, "rank 1 as the output rank, but the queue"),
    (lambda one: replace(one, stages=(range(1, LAYERS),)), r"layers 1, 2, 3, but .* 0\.\.3"),
    (lambda one: replace(one, batches=(range(1),)), "guidance branches 0 of 2"),
    (lambda one: replace(one, batches=(range(1, 2), range(1))), "branches 1, 0 of 2"),
]


@pytest.mark.parametrize(("layout", "message"), LAYOUTS)
def test_a_layout_that_cannot_run_is_refused(
    layout: Callable[[Layout], Layout], message: str
) -> None:
    strategy, workload = Lays(layout), TinyCase().workload
    check_layout("SingleDevice", SingleDevice().layout(1, workload), workload, 1)
    with pytest.raises(ConfigurationError, match=message):
        check_layout("Lays", strategy.layout(1, workload), workload, 1)

    class Suite(ParallelStrategyContract):
        def strategy(self) -> ParallelStrategy:
            return strategy

    with pytest.raises(AssertionError, match=message):
        Suite().test_the_layout_covers_the_model()


def test_kinds_of_difference_are_told_apart() -> None:
    dims = ("row", "channel", "frame", "line", "column")
    video = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    frames = torch.arange(4.0)[:, None, None]
    one_line = video.clone()
    one_line[:, :, :, 3] += 1
    for changed, said in (
        (video.flip(2), "the same numbers in another order: frames [3, 2, 1, 0]"),
        (video.transpose(0, 0)[[1, 0]], "the same numbers in another order: rows [1, 0]"),
        (one_line, "only in line 3 of 5"),
        (video + 0.1 * frames * video.sign(), "only in frame 1, 2, 3 of 4"),
        (video + 0.1 * (frames + 1) * video.sign(), "it grows with the frame: "),
        (video * 1.5, "everything is 1.5 times as large"),
        (video - 0.25, "everything is -0.25 more"),
        (video / 0, "it has numbers that are not finite"),
        (torch.randn(video.shape), "everywhere, in no simple way"),
    ):
        assert kind_of_difference(changed, video, dims).startswith(said)
