"""Which layout is chosen, how layers are split, and what known devices do."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from longtake.errors import ConfigurationError
from longtake.models.flops import Flops
from longtake.plan.cost.profiles import hardware_of, match_name, profile
from longtake.plan.cost.simulator import simulate
from longtake.plan.devices import Hardware
from longtake.plan.search.layouts import candidates, choose, warnings_of
from longtake.plan.search.meshes import Asked
from longtake.plan.search.splits import (
    balance,
    check_split,
    split_layers,
    split_layers_for_decoding,
    stages_of,
)
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal
from longtake.testing.tiny.base import TinyCase

TOGETHER, APART = (range(2),), (range(1), range(1, 2))
FREE = Hardware(
    name="free links",
    matmul=1e9,
    convolution=1e9,
    bandwidth=1e30,
    latency=0.0,
    launch=0.0,
    memory=1.0,
)

SCHEDULE = DualParal().actions
CLOCK = DualParal().clock


def workload_of(latent_frames: int | None, steps: int = 50, layers: int = 32) -> Workload:
    workload = TinyCase().workload
    return replace(
        workload,
        spec=replace(workload.spec, layers=layers),
        scheduler=FifoQueue(8, 8),
        latent_frames=latent_frames,
        steps=steps,
        flops=Flops(embed=0.0, layer=1e3, attention=0.0, head=0.0, decode=0.0),
        hardware=FREE,
    )


def test_a_minute_on_eight_devices() -> None:
    workload = workload_of(257)
    best = choose(8, workload, CLOCK).best
    # The paper's idle share with 8 devices, 50 steps and 32 blocks.
    assert best.simulation.idle <= 55 / (55 + 50 * 32)
    # Guidance on devices of its own is not 2 % faster than 8 stages of half the weights each.
    assert (best.layout.mesh.pipe, best.layout.batches) == (8, APART)
    assert warnings_of(workload, best.layout, best.simulation, CLOCK) == []


def test_five_blocks_on_eight_devices() -> None:
    choice = choose(8, workload_of(48), CLOCK)
    assert choice.best.simulation.idle <= 0.10
    assert (choice.best.layout.mesh.cfg, choice.best.layout.mesh.pipe) == (2, 4)
    assert [(one.layout.mesh.cfg, one.layout.batches) for one in choice.candidates] == [
        (1, TOGETHER),
        (1, APART),
        (2, APART),
    ]


def test_what_is_exact_is_preferred_where_it_is_as_fast() -> None:
    best = choose(2, workload_of(None), CLOCK).best
    assert best.is_exact
    assert best.layout.mesh.pipe == 2
    assert choose(1, workload_of(48), CLOCK).best.layout.batches == TOGETHER


def test_micro_tasks_that_cost_too_much_are_not_chosen() -> None:
    workload = workload_of(257)
    slow = replace(workload, hardware=replace(FREE, launch=1e-2))
    assert choose(8, slow, CLOCK, Asked(cfg=1)).best.layout.batches == TOGETHER


def test_what_is_given_is_kept() -> None:
    workload = workload_of(48, steps=8)
    assert (
        choose(8, workload, CLOCK, Asked(stages=8, together=True)).best.layout.batches == TOGETHER
    )
    assert {layout.mesh.cfg for layout in candidates(8, workload, Asked(cfg=2))} == {2}
    (only,) = candidates(4, workload, Asked(split=[6, 8, 9, 9], together=False))
    assert [len(stage) for stage in only.stages] == [6, 8, 9, 9]
    assert only.batches == APART
    unguided = replace(workload, branches=1)
    (only,) = candidates(8, unguided)
    assert (only.mesh.pipe, only.batches) == (8, (range(1),))


@pytest.mark.parametrize(
    ("world_size", "given", "branches", "words"),
    [
        (8, {"stages": 3}, 2, r"stages 3 is impossible on 8 devices.*stages 8 with cfg 1 or st"),
        (8, {"stages": 8, "cfg": 2}, 2, r"stages 8 with cfg 2 is impossible.*stages 4 with cfg 2"),
        (8, {"cfg": 2}, 1, r"possible: stages 8 with cfg 1 .*\(cfg 2 needs a guid"),
        (33, {}, 2, r"33 devices cannot share the 32 layers.*1 to 32 devices or an even number"),
        (40, {}, 1, r"40 devices cannot share the 32 layers.*use 1 to 32 devices, or"),
        (0, {}, 2, r"0 devices cannot share"),
        (2, {"split": [16, 15]}, 2, r"\[16, 15\] holds 31 layers, .* has 32; .* is \[16, 16\]"),
    ],
)
def test_impossible_degrees_are_refused_with_the_possible_ones(
    world_size: int, given: dict[str, int], branches: int, words: str
) -> None:
    workload = replace(workload_of(48), branches=branches)
    with pytest.raises(ConfigurationError, match=words):
        choose(world_size, workload, CLOCK, Asked(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("latent_frames", "steps", "words"),
    [
        # 5 blocks of 50 steps in 54 iterations; 32 of 4 in 35.
        (48, 50, "8 pipeline stages have 4.6 tasks in flight on average, so devices will idle "
         "about 48% of the time; stages 4 with cfg 2 would idle 6%."),
        (257, 4, "have 3.7 tasks in flight on average, one block for each of the 4 steps, so dev"),
        (8, 50, "have 1.0 tasks in flight"),
    ],
)  # fmt: skip
def test_a_layout_that_idles_is_told(latent_frames: int, steps: int, words: str) -> None:
    workload = workload_of(latent_frames, steps)
    layout = next(iter(candidates(8, workload)))
    (warning,) = warnings_of(workload, layout, simulate(layout, workload, SCHEDULE), CLOCK)
    assert words in warning


def test_where_nothing_idles_less_the_remedy_is_another_video() -> None:
    workload = replace(workload_of(24), branches=1)
    layout = next(iter(candidates(4, workload)))
    (warning,) = warnings_of(workload, layout, simulate(layout, workload, SCHEDULE), CLOCK)
    assert "a longer video, more steps, a smaller stride or fewer devices would help" in warning


def test_a_split_is_the_best_of_all() -> None:
    for layers, pipe, first, last in (
        (7, 3, 0.0, 0.0),
        (9, 4, 1.5, 0.4),
        (8, 3, 0.0, 2.6),
        (8, 8, 5.0, 5.0),
        (10, 2, 3.3, 0.0),
        (6, 1, 1.0, 1.0),
        (9, 3, 100.0, 1.0),
    ):

        def slowest(counts: tuple[int, ...], first: float = first, last: float = last) -> float:
            costs = [float(count) for count in counts]
            costs[0] += first
            costs[-1] += last
            return max(costs)

        every = [
            tuple(stop - start for start, stop in zip((0, *cuts), (*cuts, layers), strict=True))
            for cuts in combinations(range(1, layers), pipe - 1)
        ]
        split = balance(layers, pipe, 1.0, first, last)
        assert split in every
        assert slowest(split) == pytest.approx(min(map(slowest, every)))


def test_equal_stages_get_the_remainder_first() -> None:
    assert balance(30, 8, 1.0, 0.0, 0.0) == (4, 4, 4, 4, 4, 4, 3, 3)
    assert stages_of([2, 1]) == (range(2), range(2, 3))
    with pytest.raises(ConfigurationError, match="9 pipeline stages cannot share 8 layers"):
        balance(8, 9, 1.0, 0.0, 0.0)


def test_the_output_ranks_decoding_counts() -> None:
    workload = workload_of(257, layers=12)
    assert [len(stage) for stage in split_layers(workload, 3, TOGETHER)] == [4, 4, 4]
    # A task's layer takes 16 x 4 x 1e3 x 2 operations; decoding 8 frames once in 50 tasks.
    tokens = workload.tokens_per_frame
    decoding = replace(
        workload, flops=replace(workload.flops, decode=50 * 3 * 2 * 2 * 1e3 * tokens)
    )
    assert [len(stage) for stage in split_layers(decoding, 3, TOGETHER)] == [4, 4, 4]
    uneven = split_layers_for_decoding(decoding, 3, TOGETHER)
    assert [len(stage) for stage in uneven] == [2, 5, 5]
    # Which one is better depends on the video: both are simulated.
    weighed = choose(3, decoding, CLOCK, Asked(together=True))
    assert len(weighed.candidates) == 2
    assert weighed.best.simulation.makespan <= 1.02 * min(
        one.simulation.makespan for one in weighed.candidates
    )
    head = replace(workload, flops=replace(workload.flops, head=5 * 1e3))
    assert [len(stage) for stage in split_layers(head, 3, TOGETHER)] == [5, 5, 2]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([4, 4], r"names 2 stages, but there are 3; the nearest split is \[4, 4, 4\]"),
        ([6, 0, 6], r"gives stage 1 0 layers; the least is 1; .* is \[5, 1, 6\]"),
        ([5, 5, 5], r"holds 15 layers, but the model has 12; .* is \[4, 4, 4\]"),
        ([3, 4, 4], r"holds 11 layers, but the model has 12; .* is \[4, 4, 4\]"),
    ],
)
def test_a_written_split_has_to_fit(counts: list[int], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_split(counts, 12, 3)
    check_split([2, 3, 7], 12, 3)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Some Other Card", None),
    ],
)
def test_a_drivers_name_is_found_in_the_table(driver: str, name: str | None) -> None:
    assert match_name(driver) == name


def test_hardware_by_name_and_of_this_machine() -> None:
    assert profile("h200").name == "H200"
    assert profile("rtx 4090", torch.float32).matmul < profile("RTX 4090").matmul
    assert profile("cpu") == hardware_of(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(ConfigurationError, match="named 'H2000'; the nearest is 'H200' of B200"):
        profile("H2000")
