"""Backbone contract suite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longtake.models import Attend, Operand
from longtake.models.layers.kernel import made
from longtake.testing.contracts.backbone_case import FRAMES
from longtake.testing.contracts.backbone_layers import LayerContract, recording


class BackboneContract(LayerContract):
    """What every backbone must do. Use a tiny random-weight model of at least 2 layers."""

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
            whole = run.layer(index, whole, recording(kept, run.attend(index)))
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
        layers, grid = range(spec.layers), self._grid()
        groups = any(backbone.token_groups(index) for index in layers)
        chosen = any(backbone.own_kernel(index, grid, grid.positions) for index in layers)
        sparse = "groups" if groups else "chosen" if chosen else None
        assert sparse == spec.sparse, f"the layers are {sparse}, spec.sparse is {spec.sparse}"
        assert not (sparse and spec.text_tokens), "which group would text tokens be of?"


def _after(kept: dict[str, Tensor], tokens: int, kernel: Attend) -> Attend:
    """Return an ``attend`` that sees the first ``tokens`` of what was kept as well."""

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        keys, values = kept["keys"][:, :tokens], kept["values"][:, :tokens]
        return kernel(q, torch.cat([keys, made(k)], 1), torch.cat([values, made(v)], 1))

    return attend
