"""Layers of the backbone contract suite: what each gives ``attend``, mixes, keeps and casts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import torch
from torch import Tensor

from longtake.errors import ModelError
from longtake.models import Attend, Operand, Placement
from longtake.models.layers.kernel import made
from longtake.models.layers.operands import check_hidden, checked
from longtake.models.text import move_prompts
from longtake.testing.contracts.backbone_case import FRAMES, BackboneCase

_HALF: Final = torch.bfloat16
"""What runs compute in by default."""
_HALF_ERROR: Final = 0.7
"""Largest deviation of a prediction in ``_HALF`` from that in float32, relative to its own: 0.02 to
0.5 for tiny random models of ours, 1.4 where the two have nothing to do with each other."""


class LayerContract(BackboneCase):
    """What every layer of a backbone must do; a part of ``BackboneContract``."""

    def test_a_layer_calls_attend_once_with_operands_of_BSND(self) -> None:
        """And returns hidden states of the same shape, into which the attention has gone."""
        backbone = self.load()
        run = self._run(backbone)
        spec, hidden = backbone.spec, run.embed(self._latents())
        tokens = self._tokens(FRAMES) + spec.text_tokens
        wanted = (*hidden.shape[:2], spec.heads, spec.head_dim)
        assert hidden.shape == (2, tokens, spec.model_dim), "embed(): (B, S + text_tokens, M)"
        for index in range(spec.layers):
            calls: list[dict[str, Tensor]] = []
            attend = checked(recording(calls, run.attend(index)), f"layer {index}", wanted)
            try:
                out = run.layer(index, hidden, attend)
            except ModelError as error:
                raise AssertionError(str(error)) from error
            assert len(calls) == 1, f"layer {index} did not call attend exactly once"
            assert out.shape == hidden.shape, f"layer {index} changes the shape"
            without = run.layer(index, hidden, lambda q, k, v: torch.zeros_like(made(q)))
            assert not torch.allclose(out, without), f"layer {index} ignores what attend returns"
            hidden = out

    def test_a_layer_keeps_no_state_between_calls(self) -> None:
        """The same call gives the same bits, whatever was computed in between."""
        backbone = self.load()
        run = self._run(backbone)
        other = self._run(backbone, self.timesteps[-1], self._prompts(1, 0), self._grid(at=7))
        hidden = run.embed(self._latents())
        for index in range(backbone.spec.layers):
            first = run.layer(index, hidden.clone())
            other.layer(index, other.embed(self._latents(seed=1)).clone())
            given = hidden.clone()
            again = run.layer(index, given)
            assert torch.equal(first, again), f"layer {index} keeps state between calls"
            assert torch.equal(given, hidden), f"layer {index} changes its input in place"

    def test_a_layer_mixes_tokens_through_attend_alone(self) -> None:
        """Ranks that share a window's tokens run layers on a part of them each."""
        backbone = self.load()
        run = self._run(backbone)
        hidden = run.embed(self._latents())
        noise = torch.randn(hidden.shape[2], generator=torch.Generator().manual_seed(0))
        for index in range(backbone.spec.layers):
            out = run.layer(index, hidden, _values)
            for token in (0, hidden.shape[1] // 2, hidden.shape[1] - 1):
                changed = hidden.clone()
                changed[:, token] += noise
                moved = (run.layer(index, changed, _values) - out).abs().amax((0, 2))
                moved[token] = 0.0
                worst = int(moved.argmax())
                assert moved[worst] <= self.tolerance * out.abs().max(), (
                    f"layer {index} mixes tokens outside attend: what comes out for token {worst} "
                    f"depends on token {token}"
                )
            hidden = run.layer(index, hidden)

    def test_layers_compute_in_the_dtype_of_their_weights(self) -> None:
        """In bfloat16, which is what runs use: a cast that is missing shows only there."""
        backbone = self.load_in(_HALF)
        spec = backbone.spec
        prompts = move_prompts(self.prompts(), Placement(torch.device("cpu"), _HALF))
        with _naming("a condition"):
            run = self._run(backbone, prompts=prompts)
        with _naming("embed()"):
            hidden = run.embed(self._latents())
        assert hidden.dtype == _HALF, f"embed() returns {hidden.dtype}, its weights are {_HALF}"
        for index in range(spec.layers):
            wanted = (*hidden.shape[:2], spec.heads, spec.head_dim)
            before, where = hidden, f"layer {index}"
            attend = checked(run.attend(index), where, wanted)
            with _naming(where):
                hidden = run.layer(index, before, attend)
                check_hidden(where, hidden, before)
        with _naming("head()"):
            found = run.head(hidden).float()
        expected = self._run(self.load()).predict(self._latents())
        apart = float((found - expected).std() / expected.std())
        assert apart <= _HALF_ERROR, (
            f"in {_HALF} the prediction is {apart:.2f} deviations from that in float32: something "
            f"overflows, or is held in too few bits, such as a position"
        )

    def test_each_layer_is_the_models(self) -> None:
        """The first one that is not, where the suite is told of each (``layer_oracle``)."""
        latents, timestep = self._latents(), self.timesteps[0]
        states = self.layer_oracle(latents.expand(2, -1, -1, -1, -1), timestep, self.prompts())
        if states is None:
            pytest.skip("no layer_oracle: only the whole model is compared")
        backbone = self.load()
        assert len(states) == backbone.spec.layers, "layer_oracle() gives one tensor per layer"
        run = self._run(backbone)
        hidden = run.embed(latents)
        for index, expected in enumerate(states):
            hidden = run.layer(index, hidden)
            found = hidden[:, : expected.shape[1]]
            self._assert_close(found, expected, f"layer {index} is not the model's own")


def recording(calls: list[dict[str, Tensor]], kernel: Attend) -> Attend:
    """Return an ``attend`` that writes down its operands."""

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        v, k, q = made(v), made(k), made(q)
        calls.append({"queries": q, "keys": k, "values": v})
        return kernel(q, k, v)

    return attend


def _values(q: Operand, k: Operand, v: Operand) -> Tensor:
    """Stand in for self-attention, with nothing in it that one token has of another."""
    values, _, _ = made(v), made(k), made(q)
    return values


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name a part of a backbone that fails in ``_HALF``."""
    try:
        yield
    except ModelError as error:
        raise AssertionError(str(error)) from error
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0]
        raise AssertionError(f"{where} fails in {_HALF}, so a cast is missing: {said}") from error
