"""Backbone contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.models import AnyBackbone, Attend, ConditioningFrames, Grid, Operand, PromptStates
from longtake.models.layers.kernel import made
from longtake.models.text import join_prompts, split_prompts
from longtake.task import FrameRange
from longtake.testing.window import Run

FRAMES = 3
"""Latent frames of the test's windows, each of one token along time."""


class BackboneContract(ABC):
    """What every backbone must do. Use a tiny random-weight model of at least 2 layers."""

    height: ClassVar[int] = 4
    """Latent height."""
    width: ClassVar[int] = 6
    """Latent width."""
    timesteps: ClassVar[tuple[float, ...]] = (950.0, 120.0)
    """Noise levels to try; with two experts, one for each."""
    guidance: ClassVar[float] = 6.0
    """Guidance scale, for a model that embeds it."""
    earliest: ClassVar[int] = 0
    """From which latent frame on only the differences of rotary positions count."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference, relative to the largest number, where only the summing order differs."""

    @abstractmethod
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        """Return a new backbone of always the same weights, with only ``layers`` of it (or all)."""

    @abstractmethod
    def prompts(self) -> PromptStates:
        """Return text encoder states of two different prompts, of different length."""

    @abstractmethod
    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        """Return the model's own forward, ``(B, C, F, H, W)``, for frames 0 .. F - 1.

        The weights are those of ``load``, the guidance scale is ``self.guidance``. Use the
        model's published code where there is one.
        """

    def start(self) -> ConditioningFrames | None:
        """Return what a model with input channels for given frames needs, alike in all frames.

        By default ``None``: the model does without.
        """
        return None

    @pytest.fixture(autouse=True)
    def _no_grad(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    @pytest.mark.parametrize("branches", [1, 2])
    def test_embed_layers_head_is_the_model(self, branches: int) -> None:
        """The four methods together are the model's own forward."""
        backbone, prompts = self.load(), self._prompts(*range(branches))
        for timestep in self.timesteps:
            latents = self._latents()
            expected = self.oracle(latents.expand(branches, -1, -1, -1, -1), timestep, prompts)
            found = self._run(backbone, timestep, prompts).predict(latents)
            self._assert_close(found, expected, f"the model's own forward at {timestep}")

    def test_prompt_and_timestep_matter(self) -> None:
        """A test model in which they do not would show nothing."""
        backbone, latents = self.load(), self._latents()
        first, last = (self._run(backbone, t).predict(latents) for t in self.timesteps)
        assert not torch.allclose(first[0], first[1], rtol=1e-2), "condition_text() is not used"
        assert not torch.allclose(first, last, rtol=1e-2), "condition_step() is not used"

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
            out = run.layer(index, hidden, _recording(calls, run.attend(index)))
            assert len(calls) == 1, f"layer {index} did not call attend exactly once"
            for name, operand in calls[0].items():
                assert tuple(operand.shape) == wanted, (
                    f"attend got {name} of shape {tuple(operand.shape)}, expected (B, S, N, D) = "
                    f"{wanted}"
                )
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
            other.layer(index, other.embed(self._latents(seed=1)))
            given = hidden.clone()
            again = run.layer(index, given)
            assert torch.equal(first, again), f"layer {index} keeps state between calls"
            assert torch.equal(given, hidden), f"layer {index} changes its input in place"

    def test_parts_of_the_model_compose(self) -> None:
        """Layers 0 .. k on one instance and the rest on another are the model, bit for bit."""
        latents, whole = self._latents(), self.load()
        layers = whole.spec.layers
        expected = self._run(whole).predict(latents)
        for cut in range(1, layers):
            parts = [range(cut), range(cut, layers)]
            runs = [self._run(self.load(part)) for part in parts]
            hidden = runs[0].embed(latents)
            for run, part in zip(runs, parts, strict=True):
                hidden = run.layers(hidden, part)
            found = runs[1].head(hidden)
            assert torch.equal(found, expected), f"cut before layer {cut}, the model differs"

    def test_batch_rows_are_independent(self) -> None:
        """Guidance branches are rows: a row does not see the others."""
        backbone, latents = self.load(), self._latents()
        both = self._run(backbone).predict(latents)
        for row in (0, 1):
            alone = self._run(backbone, prompts=self._prompts(row)).predict(latents)
            self._assert_close(both[row : row + 1], alone, f"row {row} of the batch, run alone")

    def test_embed_and_head_take_frames_one_by_one(self) -> None:
        """Tokens stand frame after frame, and a frame's tokens depend on no other frame."""
        backbone, latents = self.load(), self._latents()
        run, part = self._run(backbone), self._run(backbone, grid=self._grid(1, FRAMES, origin=0))
        hidden, tokens = run.embed(latents), self._tokens(1)
        self._assert_close(
            part.embed(latents[:, :, 1:]),
            hidden[:, tokens:],
            "embed() ignores the frame offset, mixes frames or orders tokens otherwise: frames 1: "
            "of a window embedded alone",
        )
        self._assert_close(
            part.head(hidden[:, tokens:]),
            run.head(hidden)[:, :, 1:],
            "head() ignores the frame offset or mixes frames: frames 1: of a window",
        )

    def test_kept_keys_fit_another_window(self) -> None:
        """A window that reads one frame's keys and values equals the window that computes them."""
        backbone, latents = self.load(), self._latents()
        run, part = self._run(backbone), self._run(backbone, grid=self._grid(1, FRAMES, origin=0))
        tokens = self._tokens(1)
        whole = run.embed(latents)
        hidden = part.embed(latents[:, :, 1:]).expand_as(whole[:, tokens:])
        for index in range(backbone.spec.layers):
            kept: list[dict[str, Tensor]] = []
            whole = run.layer(index, whole, _recording(kept, run.attend(index)))
            hidden = part.layer(index, hidden, _after(kept[0], tokens, part.attend(index, tokens)))
            self._assert_close(
                hidden,
                whole[:, tokens:],
                f"keys of one window do not fit another one in layer {index}: rotary positions "
                f"must be absolute and applied before attend",
            )

    def test_positions_are_the_frames_own(self) -> None:
        """Rotary: only differences count. Learned: the window's place in the video counts.

        Differences to the text tokens as well: they move with the window's origin.
        """
        backbone, latents = self.load(), self._latents()
        learned = backbone.spec.learned_frames
        later = 29 if learned is None else learned - FRAMES
        here, there = (self._run(backbone, grid=self._grid(at)) for at in (self.earliest, later))
        if backbone.positions is None or learned is not None:
            same = torch.equal(here.embed(latents), there.embed(latents))
            assert not same, "embed() ignores the frame offset, and nothing else tells it"
            return
        # Angles differ in their rounding.
        self._assert_close(
            there.predict(latents), here.predict(latents), "a window some 29 frames later", 10.0
        )

    def test_padded_text_is_seen_by_nobody(self) -> None:
        """Whatever stands in the padded text tokens, the prediction has the same bits."""
        backbone = self.load()
        run, layers = self._run(backbone), range(backbone.spec.layers)
        assert max(run.padding) <= backbone.spec.text_tokens
        hidden = run.embed(self._latents())
        changed = hidden.clone()
        for row in range(len(hidden)):
            count = run.padding[row % len(run.padding)]
            changed[row, hidden.shape[1] - count :] += 7.0
        found, expected = (run.head(run.layers(states, layers)) for states in (changed, hidden))
        assert torch.equal(found, expected), "text_padding() misses padded tokens, or they are seen"

    def test_sparse_layers_are_announced(self) -> None:
        """In the spec, and only where no text passes through self-attention."""
        backbone = self.load()
        spec = backbone.spec
        sparse = any(backbone.token_groups(index) for index in range(spec.layers))
        assert sparse == spec.sparse, f"token_groups() says {sparse}, spec.sparse {spec.sparse}"
        assert not (sparse and spec.text_tokens), "which group would text tokens be of?"

    def _run(
        self,
        backbone: AnyBackbone,
        timestep: float | None = None,
        prompts: PromptStates | None = None,
        grid: Grid | None = None,
    ) -> Run:
        return Run(
            backbone,
            grid or self._grid(),
            self.timesteps[0] if timestep is None else timestep,
            prompts or self.prompts(),
            self.guidance,
            self.start(),
        )

    def _prompts(self, *rows: int) -> PromptStates:
        prompts = split_prompts(self.prompts())
        return join_prompts([prompts[row] for row in rows])

    def _grid(self, at: int = 0, stop: int | None = None, origin: int | None = None) -> Grid:
        frames = FrameRange(at, at + FRAMES if stop is None else stop)
        origin = at if origin is None else origin
        return Grid.of(frames, height=self.height, width=self.width, origin=origin)

    def _tokens(self, frames: int) -> int:
        return frames * self.load(()).spec.tokens_per_frame(self.height, self.width)

    def _latents(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        channels = self.load(()).spec.channels
        return torch.randn(1, channels, FRAMES, self.height, self.width, generator=generator)

    def _assert_close(
        self, found: Tensor, expected: Tensor, what: str, factor: float = 1.0
    ) -> None:
        assert found.shape == expected.shape, f"{what}: {found.shape}, not {expected.shape}"
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        assert difference <= factor * self.tolerance, f"{what}: {difference:.1e} (relative) apart"


def _recording(calls: list[dict[str, Tensor]], kernel: Attend) -> Attend:
    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        v, k, q = made(v), made(k), made(q)
        calls.append({"queries": q, "keys": k, "values": v})
        return kernel(q, k, v)

    return attend


def _after(kept: dict[str, Tensor], tokens: int, kernel: Attend) -> Attend:
    """Return an ``attend`` that sees the first ``tokens`` of what was kept as well."""

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        keys, values = kept["keys"][:, :tokens], kept["values"][:, :tokens]
        return kernel(q, torch.cat([keys, made(k)], 1), torch.cat([values, made(v)], 1))

    return attend
