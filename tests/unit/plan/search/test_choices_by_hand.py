"""Meshes, splits, layouts and decode ranks against choices worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.plan.cost.test_cost_by_hand import CLOCK, JOB, SLOW, SPEC, TOGETHER

from longtake.errors import ConfigurationError
from longtake.models.flops import Flops
from longtake.plan.check.replay import Link
from longtake.plan.ir.actions import Kind
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis, Mesh
from longtake.plan.search.decoders import (
    balanced,
    layouts_with_decoders,
    most_decoders,
    seconds_of,
    with_co_attention,
)
from longtake.plan.search.layouts import candidates, choose, choose_chunks
from longtake.plan.search.meshes import Asked, meshes
from longtake.plan.search.splits import split_layers, split_layers_for_decoding
from longtake.plan.workload import Workload

APART = (range(1), range(1, 2))
ANY = Asked(ring=None, ulysses=None)
LINEAR = Flops(embed=0.0, layer=10.0, attention=0.0, head=0.0, decode=0.0)


def sizes(stages: tuple[range, ...]) -> list[int]:
    return [len(stage) for stage in stages]


def degrees(found: list[Mesh]) -> list[tuple[int, int, int, int]]:
    return [(mesh.cfg, mesh.pipe, mesh.ring, mesh.ulysses) for mesh in found]


def test_all_meshes_of_four_devices() -> None:
    # At most 2 guidance branches, 2 layers and 2 heads; the product is 4.
    workload = replace(JOB, spec=replace(SPEC, layers=2, heads=2))
    assert degrees(meshes(4, workload, ANY)) == [
        (1, 2, 1, 2),
        (1, 2, 2, 1),
        (1, 1, 2, 2),
        (1, 1, 4, 1),
        (2, 2, 1, 1),
        (2, 1, 1, 2),
        (2, 1, 2, 1),
    ]
    assert degrees(meshes(4, workload, Asked())) == [(2, 2, 1, 1)]
    assert degrees(meshes(4, workload, Asked(stages=1, ring=None))) == [(1, 1, 4, 1), (2, 1, 2, 1)]
    assert degrees(meshes(1, workload, ANY)) == [(1, 1, 1, 1)]


def test_a_refusal_names_the_eight_nearest_meshes() -> None:
    # 13 meshes of 8 devices: the nearest differ in the stages alone.
    workload = replace(JOB, spec=replace(SPEC, layers=8))
    with pytest.raises(ConfigurationError) as refused:
        meshes(8, workload, Asked(stages=3))
    named = str(refused.value).partition("possible: ")[2].removesuffix(".").split(" or ")
    assert len(named) == 8
    assert named[:2] == ["stages 8 with cfg 1", "stages 4 with cfg 2"]
    assert str(refused.value).startswith("stages 3 is impossible on 8 devices")
    assert "guidance_scale" not in str(refused.value)


def test_a_refusal_of_shared_tokens_says_what_was_asked() -> None:
    with pytest.raises(ConfigurationError) as refused:
        meshes(8, JOB, Asked(cfg=2, ring=2, ulysses=3))
    said = str(refused.value)
    assert said.startswith("cfg 2 with ring 2 with ulysses 3 is impossible on 8 devices")
    assert "with 6 layers and 4 heads" in said
    # Two of the three degrees are kept.
    assert (
        "possible: stages 2 with cfg 2 with ring 2 or stages 1 with cfg 2 with ring 2 with " in said
    )


def threshold(work: Flops, extra: str, per_task: float) -> Workload:
    """Return a workload in which a part of the model costs a hair more than a layer, which is 460.

    Args:
        work: Without the part.
        extra: The part.
        per_task: What the part is multiplied with, per task.
    """
    return replace(JOB, flops=replace(work, **{extra: 1.01 * 460 / per_task}))


@pytest.mark.parametrize(
    ("extra", "batches", "per_task", "split"),
    [
        # 23 tokens x 2 branches x 10 are 460 for a layer. 18 video tokens are embedded per batch.
        ("embed", TOGETHER, 18, [2, 4]),
        ("embed", APART, 36, [2, 4]),
        # The head predicts 3 frames of 6 tokens for both branches.
        ("head", TOGETHER, 36, [4, 2]),
        ("head", APART, 36, [4, 2]),
    ],
)
def test_a_stage_with_more_to_do_has_fewer_layers(
    extra: str, batches: tuple[range, ...], per_task: float, split: list[int]
) -> None:
    """With 6 layers, 4 and 2 are better than 3 and 3 as soon as the rest costs over one layer."""
    dear = threshold(LINEAR, extra, per_task)
    assert sizes(split_layers(dear, 2, batches)) == split
    cheap = threshold(LINEAR, extra, per_task * 1.02)
    assert sizes(split_layers(cheap, 2, batches)) == [3, 3]


def test_decoding_counts_once_per_block_and_at_its_own_speed() -> None:
    # 3 frames in 2 tasks at 50 operations a second; a layer takes 460 / 100 s.
    for share, split in ((1.01, [2, 4]), (0.99, [3, 3])):
        decode = share * 4.6 / (3 / 2 / 50)
        workload = replace(JOB, flops=replace(LINEAR, decode=decode))
        assert sizes(split_layers_for_decoding(workload, 2, TOGETHER)) == split
        assert sizes(split_layers(workload, 2, TOGETHER)) == [3, 3]


def test_costs_are_means_over_the_tasks_of_a_video() -> None:
    # Blocks of 3 and 2 frames, 2 steps: every window has 3 frames (23 tokens), the keys are of 3,
    # 3, 4 and 3 (23, 23, 29, 23 tokens, 24.5 in the mean). Attention of 1: 2 x 23 x 24.5 = 1,127.
    work = replace(LINEAR, layer=0.0, attention=1.0)
    # 2.5 own frames of 6 tokens in the mean, both branches; 5 frames decoded in 4 tasks.
    parts = {"embed": 18, "head": 2.5 * 6 * 2, "decode": 5 / 4 * 100 / 50}
    for part, per_task in parts.items():
        for share, moved in ((1.01, True), (0.99, False)):
            extra = share * 1127 / per_task
            workload = replace(JOB, latent_frames=5, flops=replace(work, **{part: extra}))
            found = sizes(split_layers_for_decoding(workload, 2, TOGETHER))
            expected = ([4, 2] if part == "head" else [2, 4]) if moved else [3, 3]
            assert found == expected, (part, share)


def test_layouts_whose_weights_do_not_fit_are_left_out() -> None:
    # A device has 1,000 bytes, 900 of them for layers: 6 of 150 fit, 6 of 151 do not.
    for layer_bytes, stages in ((150.0, {1, 2}), (150.1, {2}), (300.0, {2}), (300.1, {1, 2})):
        workload = replace(JOB, layer_bytes=layer_bytes)
        found = choose(2, workload, CLOCK, Asked()).candidates
        assert {one.layout.mesh.pipe for one in found} == stages, layer_bytes


def test_candidates_have_as_many_chunks_as_a_rank_has_heads() -> None:
    def chunks(heads: int, ulysses: int) -> list[int]:
        workload = replace(JOB, spec=replace(SPEC, heads=heads))
        asked = Asked(stages=1, cfg=1, ulysses=ulysses, together=True, chunks=None)
        return [layout.chunks for layout in candidates(ulysses, workload, asked)]

    assert chunks(8, 1) == [1]
    assert chunks(2, 2) == [1]
    assert chunks(4, 2) == [1, 2]
    assert chunks(7, 2) == [1, 2]
    assert chunks(8, 2) == [1, 2, 4]


@pytest.mark.parametrize(("launch", "exact"), [(0.45, True), (0.43, False)])
def test_what_is_exact_wins_unless_it_is_two_percent_slower(launch: float, exact: bool) -> None:
    """One block on two stages of 3 x 4.6 = 13.8 s each, launches a share of that.

    Together: 2 x (1 + launch). Apart, the second branch half a stage behind the first one:
    3 x (0.5 + launch). That is 2.90 to 2.85 with 0.45, 1.8 %, and 2.86 to 2.79 with 0.43, 2.5 %.
    """
    hardware = replace(SLOW, launch=launch * 13.8, latency=0.0, bandwidth=float("inf"))
    workload = replace(JOB, flops=LINEAR, hardware=hardware, steps=1)
    choice = choose(2, workload, CLOCK, Asked(stages=2))
    spans = [one.simulation.makespan / 13.8 for one in choice.candidates]
    assert spans == pytest.approx([2 * (1 + launch), 3 * (0.5 + launch)])
    assert choice.best.is_exact is exact


def test_chunks_are_taken_where_they_win_by_two_percent() -> None:
    layout = Layout(mesh=Mesh(ulysses=2), stages=(range(6),), batches=TOGETHER)
    # 1 chunk: 2 latencies of 0.25 s; 2 chunks: 5, and what they hide is little: they lose.
    assert choose_chunks(layout, JOB, CLOCK).chunks == 1
    # Without latency and launch, slow links: bytes take 2,944 s of which 2 chunks hide almost
    # all of the result and as much of the rest as projections take.
    links = replace(SLOW, latency=0.0, launch=0.0, bandwidth=1.0, hiding=1.0)
    assert choose_chunks(layout, replace(JOB, hardware=links), CLOCK).chunks == 2


@pytest.mark.parametrize(("bandwidth", "chunks"), [(60_720.0, 1), (19_831.0, 2)])
def test_heads_are_attended_at_once_unless_parts_win_by_two_percent(
    bandwidth: float, chunks: int
) -> None:
    """A layer takes 2 x 10 x 12 tokens / 100 = 2.4 s and sends 2,944 bytes.

    Of these, two thirds of the 2,208 before attention are hidden with two parts: 1.0 % of all
    time on the faster links, 3.0 % on the slower ones.
    """
    links = replace(SLOW, bandwidth=bandwidth, latency=0.0, launch=0.0, hiding=1.0)
    workload = replace(JOB, flops=LINEAR, hardware=links)
    asked = Asked(stages=1, cfg=1, ulysses=2, together=True, chunks=None)
    choice = choose(2, workload, CLOCK, asked)
    spans = [one.simulation.makespan for one in choice.candidates]
    whole = 2.4 + 2944 / bandwidth
    assert spans[0] / spans[1] == pytest.approx(whole / (whole - 1472 / bandwidth), abs=1e-3)
    assert choice.best.layout.chunks == chunks
    assert choose_chunks(choice.candidates[0].layout, workload, CLOCK).chunks == chunks


@pytest.mark.parametrize(
    ("ranks", "decode", "denoise", "count"),
    [(8, 10.0, 30.0, 2.0), (4, 1.0, 1.0, 2.0), (6, 3.0, 1.0, 4.5), (5, 0.0, 7.0, 0.0)],
)
def test_the_balance_of_decoding(ranks: int, decode: float, denoise: float, count: float) -> None:
    assert balanced(ranks, decode, denoise) == pytest.approx(count)


def test_seconds_of_one_video_on_one_device() -> None:
    # A task: 0.5 + 6 x 142.6 (see the two stages on a clock) + 1.26 + 6.12 s; two of them.
    decode, denoise = seconds_of(JOB)
    assert decode == pytest.approx(3 * 0.38)
    assert denoise == pytest.approx(2 * (0.5 + 6 * 142.6 + 1.26 + 6.12))


def test_numbers_of_decode_ranks_that_are_weighed() -> None:
    def lay_out(ranks: int) -> Layout:
        return Layout(mesh=Mesh(ring=ranks), stages=(range(6),), batches=TOGETHER)

    # Denoising takes 2 x 6 x 460 / 92 = 60 s, decoding 3 x 600 / 50 = 36: 8 x 36 / 96 = 3 ranks.
    hardware = replace(SLOW, matmul=92.0, launch=0.0)
    work = replace(LINEAR, decode=600.0)
    even = replace(JOB, flops=work, hardware=hardware, requests=9)
    assert [one.decoders for one in layouts_with_decoders(8, even, lay_out)] == [0, 3]
    # 7 x 36 / 96 are 2.6 ranks.
    assert [one.decoders for one in layouts_with_decoders(7, even, lay_out)] == [0, 2, 3]
    few = replace(even, requests=2)
    assert [one.decoders for one in layouts_with_decoders(7, few, lay_out)] == [0, 2]
    tiled = layouts_with_decoders(7, replace(few, tiles=4), lay_out)
    assert [(one.decoders, one.tiled) for one in tiled] == [(0, False), (2, True), (3, True)]
    assert [one.mesh.size for one in tiled] == [7, 5, 4]


def test_the_most_decode_ranks() -> None:
    assert most_decoders(4, replace(JOB, requests=9)) == 3
    assert most_decoders(4, replace(JOB, requests=2)) == 2
    assert most_decoders(8, replace(JOB, requests=9, tiles=5)) == 5
    assert most_decoders(3, replace(JOB, requests=9, tiles=5)) == 2


@pytest.mark.parametrize(
    ("mesh", "changes", "said"),
    [
        (Mesh(), {"decoders": 0}, "there is no decode device"),
        (Mesh(pipe=2), {}, "there are 2 pipeline stages"),
        (Mesh(ring=2), {}, "ring is 2 and overlap 1"),
        (Mesh(ulysses=2), {"chunks": 2}, "ring is 1 and overlap 2"),
    ],
)
def test_cooperation_that_is_refused(mesh: Mesh, changes: dict[str, int], said: str) -> None:
    stages = tuple(range(stage, stage + 1) for stage in range(mesh.pipe))
    layout = Layout(mesh=mesh, stages=stages, batches=TOGETHER, decoders=1)
    with pytest.raises(ConfigurationError, match=said):
        with_co_attention(replace(layout, **changes), text_in_attention=False)  # type: ignore[arg-type]
    good = replace(layout, mesh=Mesh(ulysses=2), stages=(range(6),))
    assert with_co_attention(good, text_in_attention=False).aco
    with pytest.raises(ConfigurationError, match="text is inside"):
        with_co_attention(good, text_in_attention=True)
    with pytest.raises(ConfigurationError, match="do not attend to all"):
        with_co_attention(good, text_in_attention=False, sparse=True)


# cfg 2 x pipe 2 x ring 2 x ulysses 2: rank = 8 cfg + 4 pipe + 2 ring + ulysses.
SIXTEEN = Layout(
    mesh=Mesh(cfg=2, pipe=2, ring=2, ulysses=2),
    stages=(range(4), range(4, 6)),
    batches=APART,
    decoders=3,
)


def test_ranks_of_a_mesh() -> None:
    mesh = SIXTEEN.mesh
    assert mesh.size == 16
    assert mesh.rank(cfg=1, ring=1) == 10
    assert mesh.coordinate(13) == {
        Axis.DATA: 0,
        Axis.CFG: 1,
        Axis.PIPE: 1,
        Axis.RING: 0,
        Axis.ULYSSES: 1,
    }
    for wrong in (-1, 16):
        with pytest.raises(ValueError, match=f"rank {wrong} is not on a mesh of 16"):
            mesh.coordinate(wrong)
    with pytest.raises(ValueError, match="ring 2 is not on an axis of 2"):
        mesh.rank(ring=2)
    with pytest.raises(ValueError, match="there is no axis tensor"):
        mesh.rank(tensor=0)


def test_what_ranks_of_a_layout_hold_and_with_whom_they_exchange() -> None:
    assert (SIXTEEN.size, SIXTEEN.sequence) == (19, 4)
    assert [SIXTEEN.layers(rank) for rank in (0, 3, 4, 12, 16, 18)] == [
        range(4),
        range(4),
        range(4, 6),
        range(4, 6),
        range(0),
        range(0),
    ]
    assert SIXTEEN.rank(cfg=1, pipe=1, sequence=3) == 15
    assert SIXTEEN.rank() == SIXTEEN.output_rank == 0
    assert [SIXTEEN.sequence_index(rank) for rank in (0, 5, 6, 15)] == [0, 1, 2, 3]
    assert [SIXTEEN.ulysses_ranks(rank) for rank in (0, 7)] == [(0, 1), (6, 7)]
    assert SIXTEEN.groups[:5] == [(0, 1, 2, 3), (0, 2), (1, 3), (0, 1), (2, 3)]
    assert len(SIXTEEN.groups) == 4 * 5
    assert (SIXTEEN.batches_at(0), SIXTEEN.batches_at(1)) == ((range(1),), (range(1, 2),))
    assert SIXTEEN.combine_rank == 4
    # Decode ranks 16, 17, 18: videos take turns, or share the tiles; heads go to one of them.
    assert [SIXTEEN.decode_ranks(video) for video in (0, 1, 2, 3)] == [[16], [17], [18], [16]]
    assert replace(SIXTEEN, tiled=True).decode_ranks(1) == [16, 17, 18]
    assert replace(SIXTEEN, decoders=0).decode_ranks(5) == []
    assert [SIXTEEN.helper(rank) for rank in (0, 1, 5)] == [16, 17, 18]


def test_places_of_ranks() -> None:
    first, last, other = (RankRole.of(SIXTEEN, rank) for rank in (3, 4, 13))
    assert (first.is_first, first.is_last, first.predicts, first.combines) == (True, False) + (
        False,
    ) * 2
    assert (first.before, first.after, first.batches) == (None, 7, (range(1),))
    assert first.other_firsts == (1, 2, 3, 8, 9, 10, 11)
    assert (last.is_first, last.is_last, last.predicts, last.combines) == (False, True, True, True)
    assert (last.before, last.after, last.layers) == (0, None, range(4, 6))
    assert last.other_predictions == ((12, range(1, 2)),)
    assert (other.predicts, other.combines, other.before, other.output) == (False, False, 9, 0)
    assert other.branches == range(2)
    assert other.batches == (range(1, 2),)


def test_layouts_are_weighed_on_32_blocks_and_without_stages_on_4() -> None:
    # 3 channels of 4 x 6 numbers of 4 bytes a frame, in both steps; the first block has 3 frames.
    long = replace(JOB, latent_frames=1001)
    staged = choose(2, long, CLOCK, Asked(stages=2)).best.simulation
    assert staged.link_bytes[Link(1, 0, Kind.GUIDED)] == (3 + 31 * 2) * 288 * 2
    flat = choose(2, long, CLOCK, Asked(stages=1, cfg=2)).best.simulation
    assert flat.link_bytes[Link(1, 0, Kind.PREDICTION)] == (3 + 3 * 2) * 288 * 2
