"""The contract suite of parallel strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.caches import NoCache, SameStepKV
from longtake.errors import ConfigurationError
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import Axis, BlockDone, ParallelStrategy, Progress, SingleDevice, TaskDone
from longtake.testing.tiny import TinyCase, tiny_denoising

CASES: dict[str, TinyCase] = {
    "next-block-kv": TinyCase(),
    "same-step-kv": TinyCase(cache=SameStepKV()),
    "no-cache": TinyCase(cache=NoCache()),
    "stride-2": TinyCase(scheduler=FifoQueue(3, 2, stride=2)),
    "stride-2-same-step-kv": TinyCase(scheduler=FifoQueue(3, 3, stride=2), cache=SameStepKV()),
    "one-block-in-flight": TinyCase(scheduler=FifoQueue(3, 2, stride=5), cache=SameStepKV()),
    "five-blocks": TinyCase(latent_frames=17),
    "one-block": TinyCase(latent_frames=4),
    "short-last-block": TinyCase(latent_frames=9, cache=SameStepKV()),
    "no-context": TinyCase(scheduler=FifoQueue(3, 0)),
    "full-sequence": TinyCase(scheduler=FullSequence(), latent_frames=5),
    "one-step": TinyCase(steps=1),
    "no-guidance": TinyCase(scales=(1.0,)),
    "prompt-schedule": TinyCase(second_prompt_at=6),
    "euler": TinyCase(sampler="FlowMatchEulerDiscreteScheduler"),
    "dpm-solver": TinyCase(sampler="DPMSolverMultistepScheduler"),
    "two-experts": TinyCase(scales=(4.0, 3.0)),
    "guidance-by-one-expert": TinyCase(scales=(4.0, 1.0), second_prompt_at=6),
}
"""Small models and videos in which everything that a strategy must carry differs."""

cases = pytest.mark.parametrize("name", CASES)


# numpy's complaint about diffusers' DPM-Solver++, harmless.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class ParallelStrategyContract(ABC):
    """What every parallel strategy must do: exactly what ``SingleDevice`` does.

    A strategy for several ranks sets ``world_size`` and overrides ``run_ranks``.
    """

    world_size: ClassVar[int] = 1
    """Ranks that ``run_ranks`` runs."""
    impossible: ClassVar[tuple[int, ...]] = (0,)
    """Numbers of ranks that the strategy must refuse."""
    tolerance: ClassVar[float] = 0.0
    """Largest difference from the serial run, relative to the largest latent. Say why above 0."""

    @abstractmethod
    def strategy(self) -> ParallelStrategy:
        """Return a new strategy."""

    def run_ranks(self, case: TinyCase) -> list[list[Progress]]:
        """Run ``case`` on ``world_size`` ranks and return what each rank yielded.

        In this very process, for one rank. On several, run this body on each of them: the case,
        the strategy and the mesh are plain data.
        """
        strategy = self.strategy()
        mesh = strategy.mesh(self.world_size, case.spec)
        ranks = []
        for rank in range(mesh.size):
            work = tiny_denoising(case, strategy.layers(mesh, rank, case.spec))
            with torch.no_grad():
                ranks.append(list(strategy.run(work, mesh, rank)))
        return ranks

    @cases
    def test_blocks_are_those_of_the_serial_run(self, name: str) -> None:
        """The one law: where things run never changes what is computed."""
        expected = serial(name)
        blocks = [e for e in self._output(CASES[name]) if isinstance(e, BlockDone)]
        assert [block.block for block in blocks] == list(range(len(expected)))
        cut = CASES[name].scheduler.blocks(CASES[name].latent_frames)
        assert [block.frames for block in blocks] == list(cut), "frames of the blocks"
        for block, latents in zip(blocks, expected, strict=True):
            assert block.latents.shape == latents.shape
            assert block.latents.dtype == torch.float32
            self._assert_equal(block, latents)

    @cases
    def test_every_task_is_reported_in_the_order_of_the_schedule(self, name: str) -> None:
        """One ``TaskDone`` per task, and each block right after its last one."""
        case = CASES[name]
        events = self._output(case)
        tasks = [event.task for event in events if isinstance(event, TaskDone)]
        assert tasks == list(case.scheduler.tasks(case.latent_frames, case.steps))
        for before, event in pairwise([None, *events]):
            if isinstance(event, BlockDone):
                last = before.task if isinstance(before, TaskDone) else None
                assert last is not None, f"block {event.block} does not follow its last task"
                assert last.block == event.block, f"block {event.block} does not follow its task"
                assert last.last_step, f"block {event.block} comes before its last task"

    def test_an_endless_video_begins_like_a_finite_one(self) -> None:
        """Blocks come out while the video is being made; closing the iterator ends it."""
        if self.world_size > 1:
            pytest.skip("ranks that stop in the midst of a video have to agree on where")
        strategy, endless = self.strategy(), replace(CASES["five-blocks"], latent_frames=None)
        mesh = strategy.mesh(1, endless.spec)
        work = tiny_denoising(endless, strategy.layers(mesh, 0, endless.spec))
        found: list[BlockDone] = []
        with torch.no_grad():
            events = strategy.run(work, mesh, 0)
            while len(found) < 2:
                event = next(events)
                if isinstance(event, BlockDone):
                    found.append(event)
        # Blocks 0 and 1 finish before block 5 enters, so they do not know that there is one.
        for block, latents in zip(found, serial("five-blocks")[:2], strict=True):
            self._assert_equal(block, latents)

    def test_a_strategy_runs_one_request_after_another(self) -> None:
        """Nothing of a request stays in the strategy."""
        strategy, blocks = self.strategy(), []
        if self.world_size > 1:
            pytest.skip("run_ranks makes its own strategy")
        case = CASES["same-step-kv"]
        for _ in range(2):
            mesh = strategy.mesh(1, case.spec)
            work = tiny_denoising(case, strategy.layers(mesh, 0, case.spec))
            with torch.no_grad():
                events = list(strategy.run(work, mesh, 0))
            blocks.append([event.latents for event in events if isinstance(event, BlockDone)])
        assert all(torch.equal(a, b) for a, b in zip(*blocks, strict=True))

    def test_the_mesh_has_the_size_that_was_asked_for(self) -> None:
        """And is the same every time."""
        spec = CASES["next-block-kv"].spec
        mesh = self.strategy().mesh(self.world_size, spec)
        assert mesh.size == self.world_size
        assert mesh == self.strategy().mesh(self.world_size, spec)

    def test_impossible_world_sizes_are_refused_in_a_sentence(self) -> None:
        """Before any weight is read, with the number that was asked for."""
        for world_size in self.impossible:
            with pytest.raises(ConfigurationError, match=rf"\b{world_size}\b"):
                self.strategy().mesh(world_size, CASES["next-block-kv"].spec)

    def test_the_stages_cover_the_model(self) -> None:
        """Consecutive layers per stage, all of them once; one stage's ranks hold the same ones."""
        strategy, spec = self.strategy(), CASES["next-block-kv"].spec
        mesh = strategy.mesh(self.world_size, spec)
        held: dict[int, range] = {}
        for rank in range(mesh.size):
            layers = strategy.layers(mesh, rank, spec)
            stage = mesh.coordinate(rank)[Axis.PIPE]
            assert held.setdefault(stage, layers) == layers, f"rank {rank} differs in its stage"
        found = [layer for stage in sorted(held) for layer in held[stage]]
        assert found == list(range(spec.layers)), "layers by stage"

    def _output(self, case: TinyCase) -> list[Progress]:
        ranks = self.run_ranks(case)
        outputs = [r for r in ranks if any(isinstance(event, BlockDone) for event in r)]
        assert len(outputs) == 1, f"{len(outputs)} of {len(ranks)} ranks yield blocks, not one"
        return outputs[0]

    def _assert_equal(self, block: BlockDone, latents: Tensor) -> None:
        difference = (block.latents - latents).abs().max() / latents.abs().max()
        assert difference <= self.tolerance, (
            f"block {block.block} is {difference:.2e} (relative) from the serial run, "
            f"more than {self.tolerance:.0e}"
        )


@cache
def serial(name: str) -> list[Tensor]:
    """Return the blocks of a case as the oracle makes them."""
    strategy, case = SingleDevice(), CASES[name]
    work = tiny_denoising(case)
    with torch.no_grad():
        events = strategy.run(work, strategy.mesh(1, case.spec), 0)
        return [event.latents for event in events if isinstance(event, BlockDone)]
