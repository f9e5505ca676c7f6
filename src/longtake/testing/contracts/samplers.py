"""The contract suite of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.models.samplers.base import BlockSampler, Sampler

SHAPE = (1, 2, 3, 4, 4)
STEPS = 5


class SamplerContract(ABC):
    """What every sampler must do."""

    steps: ClassVar[int] = STEPS
    """Steps of the sampler that is tried."""

    @abstractmethod
    def sampler(self) -> Sampler:
        """Return a new sampler of ``steps`` steps."""

    def test_there_is_a_timestep_per_step(self) -> None:
        """One forward each, as many as were asked for."""
        assert len(self.sampler().timesteps) == STEPS

    def test_nothing_is_changed_in_place(self) -> None:
        """Neither prediction, latents nor noise: a neighbor's window may still hold them."""
        sampler = self.sampler()
        block, latents = sampler.start(), sampler.first(_draw(0))
        for step in range(STEPS):
            given = [_draw(10 + step), latents, _noise(sampler, step)]
            before = [None if one is None else one.clone() for one in given]
            latents = block.step(_draw(10 + step), latents, given[2])
            for now, then in zip(given[1:], before[1:], strict=True):
                assert (now is None) == (then is None)
                assert now is None or then is None or torch.equal(now, then)

    def test_latents_stay_fp32_of_their_shape(self) -> None:
        """Whatever the prediction's dtype."""
        sampler = self.sampler()
        latents = sampler.start().step(
            _draw(1).bfloat16(), sampler.first(_draw(0)), _noise(sampler, 0)
        )
        assert latents.dtype == torch.float32
        assert latents.shape == SHAPE

    def test_blocks_stepped_in_turns_do_not_disturb_each_other(self) -> None:
        """Two blocks, one step apart, come out as alone: a sampler keeps nothing of a block."""
        sampler = self.sampler()
        alone = [self._run(sampler, seed) for seed in (0, 100)]
        blocks = [sampler.start(), sampler.start()]
        latents = [sampler.first(_draw(0)), sampler.first(_draw(100))]
        for turn in range(STEPS + 1):
            for index, step in ((1, turn - 1), (0, turn)):
                if 0 <= step < STEPS:
                    latents[index] = _step(
                        sampler, blocks[index], latents[index], step, 100 * index
                    )
        assert torch.equal(latents[0], alone[0])
        assert torch.equal(latents[1], alone[1])

    @pytest.mark.parametrize("done", range(1, STEPS))
    def test_a_block_goes_on_from_its_state(self, done: int) -> None:
        """Its state and its latents are all that has to be kept: the rest has the same bits."""
        sampler = self.sampler()
        block, latents = sampler.start(), sampler.first(_draw(0))
        for step in range(done):
            latents = _step(sampler, block, latents, step)
        state = block.state()
        assert all(isinstance(one, Tensor) for one in state.tensors.values())
        assert all(isinstance(one, int | float | str | None) for one in state.numbers.values())
        block = self.sampler().start(state)
        for step in range(done, STEPS):
            latents = _step(sampler, block, latents, step)
        assert torch.equal(latents, self._run(sampler))

    def test_random_numbers_are_only_those_handed_in(self) -> None:
        """Torch's global generator is neither read nor moved, and the noise is used."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            before = torch.get_rng_state()
            sampler = self.sampler()
            first = self._run(sampler)
            assert torch.equal(before, torch.get_rng_state()), "torch's global generator moved"
            torch.manual_seed(2)
            assert torch.equal(first, self._run(sampler)), "depends on torch's global generator"
            other = self._run(sampler, noise_seed=1)
        assert torch.equal(first, other) != sampler.stochastic

    def test_elements_do_not_mix(self) -> None:
        """Other frames of a block change nothing for a frame: known ones are put in their place."""
        sampler = self.sampler()
        whole = self._run(sampler)
        block, latents = sampler.start(), sampler.first(_draw(0))[:, :, :1]
        for step in range(STEPS):
            noise = _noise(sampler, step)
            part = None if noise is None else noise[:, :, :1]
            latents = block.step(_draw(10 + step)[:, :, :1], latents, part)
        assert torch.equal(latents, whole[:, :, :1])

    def test_known_latents_begin_as_noise_and_end_as_they_are(self) -> None:
        """``noised`` is at the level of the next step."""
        sampler = self.sampler()
        block, clean, noise = sampler.start(), _draw(5), _draw(6)
        far = (block.noised(clean, noise) - sampler.first(noise)).abs().mean()
        # Few schedules begin at pure noise: a fifth of the clip is left at most.
        assert far < 0.2
        latents = sampler.first(_draw(0))
        for step in range(STEPS):
            latents = _step(sampler, block, latents, step)
        assert torch.equal(block.noised(clean, noise), clean)

    def _run(self, sampler: Sampler, seed: int = 0, noise_seed: int = 0) -> Tensor:
        block, latents = sampler.start(), sampler.first(_draw(seed))
        for step in range(STEPS):
            latents = _step(sampler, block, latents, step, seed, noise_seed)
        return latents


def _step(
    sampler: Sampler,
    block: BlockSampler,
    latents: Tensor,
    step: int,
    seed: int = 0,
    noise_seed: int = 0,
) -> Tensor:
    noise = _noise(sampler, step, seed + noise_seed)
    return block.step(_draw(10 + step + seed), latents, noise)


def _noise(sampler: Sampler, step: int, seed: int = 0) -> Tensor | None:
    return _draw(10_000 + 100 * seed + step) if sampler.stochastic else None


def _draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
