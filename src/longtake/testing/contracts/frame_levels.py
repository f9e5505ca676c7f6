"""Frame level contract suite: backbones whose timestep may differ per latent frame."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from longtake.models import LayerContext, Operand, PromptStates
from longtake.models.layers.kernel import attention_kernel, made
from longtake.models.layers.levels import level_runs
from longtake.testing.contracts.backbone import BackboneContract
from longtake.testing.contracts.backbone_case import FRAMES
from longtake.testing.window import Run


class FrameLevelsContract(BackboneContract):
    """What a backbone with ``spec.timestep == "frame"`` must do, besides what every one must."""

    levels: ClassVar[tuple[float, ...]] = (0.0, 120.0, 950.0)
    """Noise levels of the test window's frames."""

    @abstractmethod
    def frame_oracle(
        self, latents: Tensor, timesteps: Sequence[float], prompts: PromptStates
    ) -> Tensor:
        """Return the model's own forward with one timestep per latent frame; see ``oracle``."""

    @override
    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        """Return the model's own forward: that with every frame at the same timestep."""
        return self.frame_oracle(latents, [timestep] * latents.shape[2], prompts)

    def test_each_frame_has_its_own_timestep(self) -> None:
        """Frames at different noise levels in one forward: the model's own."""
        latents, prompts = self._latents(), self.prompts()
        found = self._at(self.levels).predict(latents)
        expected = self.frame_oracle(latents.expand(2, -1, -1, -1, -1), self.levels, prompts)
        self._assert_close(found, expected, f"the model's own forward at {self.levels}")

    def test_the_timestep_of_one_frame_matters(self) -> None:
        """To the prediction of that frame, most of all."""
        latents = self._latents()
        before = self._at(self.levels).predict(latents)
        for frame in range(FRAMES):
            levels = [500.0 if i == frame else level for i, level in enumerate(self.levels)]
            changed = (self._at(levels).predict(latents) - before).abs().amax(dim=(0, 1, 3, 4))
            assert changed[frame] > 1e-2, f"join_steps() does not reach frame {frame}"
            assert changed.argmax() == frame, f"the timestep of frame {frame} is used for others"

    def test_equal_levels_are_one_level(self) -> None:
        """Joined or not, all frames at one level are the same clip."""
        backbone, latents, level = self.load(), self._latents(), self.timesteps[0]
        assert backbone.spec.timestep == "frame"
        whole = self._run(backbone, level)
        step = backbone.condition_step(level, self.guidance)
        joined = backbone.join_steps([step] * FRAMES, [self._tokens(1)] * FRAMES)
        hidden, context = whole.embed(latents), self._context(joined, range(self._tokens(FRAMES)))
        for index in range(backbone.spec.layers):
            found = backbone.layer(index, hidden, context, whole.attend(index))
            hidden = whole.layer(index, hidden)
            self._assert_close(found, hidden, f"layer {index} at one level, joined")
        found = backbone.head(hidden, self._grid(), context)
        self._assert_close(found, whole.head(hidden), "the head at one level, joined")

    def test_tokens_are_cut_anywhere(self) -> None:
        """Where ranks share the tokens, a cut may be within a frame."""
        backbone, latents = self.load(), self._latents()
        run, one = self._at(self.levels), self._tokens(1)
        hidden = run.embed(latents)

        def own_value(q: Operand, k: Operand, v: Operand) -> Tensor:
            return made(v)

        whole = run.layer(0, hidden, own_value)
        for tokens in (range(one - 1), range(1, 2 * one + 1), range(one + 1, FRAMES * one)):
            runs = level_runs(self.levels, one, tokens)
            levels = [backbone.condition_step(level, self.guidance) for level, _ in runs]
            step = backbone.join_steps(levels, [count for _, count in runs])
            cut = slice(tokens.start, tokens.stop)
            found = backbone.layer(0, hidden[:, cut], self._context(step, tokens), own_value)
            self._assert_close(found, whole[:, cut], f"tokens {tokens} of a window")

    def _at(self, levels: Sequence[float]) -> Run:
        return Run(self.load(), self._grid(), levels, self.prompts(), self.guidance)

    def _context(self, step: object, tokens: range) -> LayerContext[object, object]:
        backbone = self.load()
        rotary = None
        if backbone.positions is not None:
            cos, sin = backbone.positions.table(self._grid())
            rotary = cos[:, tokens.start : tokens.stop], sin[:, tokens.start : tokens.stop]
        text = backbone.condition_text(self.prompts())
        return LayerContext(text=text, step=step, rotary=rotary, kernel=attention_kernel)
