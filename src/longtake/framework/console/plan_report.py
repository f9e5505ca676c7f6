"""Plan report, as ``longtake plan`` prints it: who holds and runs what, how long it would take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Final, TypeAlias

from longtake.errors import NoPlan
from longtake.framework.engine.applied import model_of, settings_of
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.request import Request
from longtake.models import ModelFolder
from longtake.plan.cost.memory import RankMemory
from longtake.plan.cost.simulator import Simulation, bounded, message_bytes
from longtake.plan.ir.actions import Kind, Message
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis
from longtake.plan.search.layouts import warnings_of
from longtake.plan.walk import walk_of
from longtake.plan.workload import Workload
from longtake.tables import Cell, Format, show_record, show_rows, write_json

Row: TypeAlias = Mapping[str, Cell]
"""A line of a table: value by column."""

_PARTS: Final = (
    *("weights_gb", "cache_gb", "activations_gb", "messages_gb", "latents_gb", "vae_gb"),
    *("decoding_gb", "text_encoder_gb", "start_encoder_gb"),
)
"""What a rank's peak is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """A plan in words and numbers.

    Args:
        figures: Of the whole run.
        settings: The model, its licence and what its longest video is made with.
        replicas: Of each that makes some of the requests; none where there is one.
        divisions: Of every number of replicas that was weighed; none where there was one.
        ranks: Of every rank.
        alternatives: Of every layout that the strategy weighed; none where it weighed one.
        warnings: What the user might want to change, in sentences.
    """

    figures: Row
    settings: Row
    replicas: Sequence[Row]
    divisions: Sequence[Row]
    ranks: Sequence[Row]
    alternatives: Sequence[Row]
    warnings: Sequence[str]


def report_of(chosen: ChosenLayout, request: Request) -> PlanReport:
    """Put the report of a checked plan together. Plays the run on a clock; reads headers only.

    Args:
        chosen: The run's.
        request: The longest one.
    """
    layout = chosen.layout
    workload = replace(bounded(chosen.counted_workload()), requests=max(1, layout.decoders))
    clock = chosen.strategy.clock
    time = clock(workload)
    simulation: Simulation | None = None
    warnings, choices = chosen.always(), chosen.alternatives()
    try:
        simulation = time(layout)
        warnings += warnings_of(workload, layout, simulation, clock)
    except NoPlan as error:
        warnings.append(str(error))
        choices = []
    others = _alternatives(chosen, choices, time) if len(choices) > 1 else ()
    return PlanReport(
        figures=_figures(chosen, workload, simulation),
        settings={**model_of(chosen.workloads.model), **settings_of(chosen.workloads, request)},
        replicas=list(_replicas(chosen)),
        divisions=list(_divisions(chosen)),
        ranks=list(_ranks(chosen, request, workload, simulation)),
        alternatives=list(others),
        warnings=warnings,
    )


def notes_of(folder: ModelFolder) -> Iterator[str]:
    """Yield what a plan says of where the model is, in sentences."""
    if (download := folder.to_fetch()) is not None:
        yield f"a run would download {download}"
    if (structure := folder.structure) is not None:
        yield (
            f"{structure.name} is not on this machine, so the plan is made from its structure as "
            f"the package has it ({structure.date}, from {' and '.join(structure.sources)})"
        )
        if structure.doubt is not None:
            yield f"warning: the structure of {structure.name} is unverified: {structure.doubt}"


def show(report: PlanReport, format_: Format = "table") -> None:
    """Print a report to stdout, its warnings to stderr.

    Args:
        report: Of a plan.
        format_: Of what is printed.
    """
    if format_ == "json":
        write_json(asdict(report))
        return
    show_record("plan", report.figures)
    show_record("settings", report.settings)
    for title, rows in (
        ("replicas", report.replicas),
        ("numbers of replicas", report.divisions),
        ("ranks", [_without(row, _PARTS) for row in report.ranks]),
        ("memory of ranks, GB", _memory_table(report.ranks)),
        ("alternatives", report.alternatives),
    ):
        if rows:
            show_rows(title, rows)
    for warning in report.warnings:
        sys.stderr.write(f"longtake: warning: {warning}\n")


def _without(row: Row, names: Collection[str]) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _memory_table(ranks: Sequence[Row]) -> list[Row]:
    """Return what ranks hold, part by part, without the parts that none of them has."""
    parts = [part for part in _PARTS if any(row[part] for row in ranks)]
    return [{"rank": row["rank"], **{_short(part): row[part] for part in parts}} for row in ranks]


def _short(part: str) -> str:
    return part.removesuffix("_gb")


def _figures(chosen: ChosenLayout, workload: Workload, simulation: Simulation | None) -> Row:
    whole, layout = chosen.workload, chosen.layout
    windows = [len(forward.window.frames) for forward in walk_of(workload)]
    hop = Message(
        kind=Kind.HOP, index=0, block=0, step=0, branches=layout.batches[0], frames=max(windows)
    )
    return {
        "devices": chosen.world_size,
        **_mesh(layout, chosen.replicas.count),
        "hardware": workload.hardware.name,
        "blocks": None if whole.latent_frames is None else _blocks(whole),
        "simulated_blocks": _blocks(workload),
        "simulated_requests": workload.requests,
        "blocks_in_flight": workload.blocks_in_flight,
        **_times(simulation),
        **({} if (span := chosen.replicas.makespan) is None else {"all_requests_seconds": span}),
        "hop_mb": message_bytes(workload, hop) / 1e6 if layout.mesh.pipe > 1 else 0.0,
        "sent_mb": None if simulation is None else sum(simulation.sent_bytes) / 1e6,
    }


def _times(simulation: Simulation | None) -> Row:
    """Return what only a simulated clock tells."""
    if simulation is None:
        return dict.fromkeys(("seconds", "first_block_seconds", "idle_percent"))
    return {
        "seconds": simulation.makespan,
        "first_block_seconds": simulation.first_block,
        "idle_percent": 100 * simulation.idle,
    }


def _replicas(chosen: ChosenLayout) -> Iterator[Row]:
    replicas, size = chosen.replicas, chosen.replica_size
    for number, share in enumerate(replicas.shares if replicas.count > 1 else ()):
        yield {
            "replica": number,
            "ranks": f"{number * size}-{(number + 1) * size - 1}",
            "requests": ",".join(map(str, share)),
            "seconds": replicas.seconds[number] if replicas.seconds else None,
        }


def _divisions(chosen: ChosenLayout) -> Iterator[Row]:
    for one in chosen.divisions if len(chosen.divisions) > 1 else ():
        count = one.replicas.count
        yield {
            **_mesh(one.layout, count),
            "seconds": one.replicas.makespan,
            "chosen": "yes" if count == chosen.replicas.count else "no",
        }


def _blocks(workload: Workload) -> int:
    return sum(1 for _ in workload.scheduler.blocks(workload.latent_frames))


def _ranks(
    chosen: ChosenLayout, request: Request, workload: Workload, simulation: Simulation | None
) -> Iterator[Row]:
    layout, known = chosen.layout, chosen.workloads.model.count_weights() is not None
    starts = request.encodes_frames
    held = chosen.memory.of(chosen.workload, layout, starts=starts)
    for replica, (rank, memory) in product(range(chosen.replicas.count), enumerate(held)):
        share: Row = {"stage": "decode", "layers": "", "branches": ""}
        if rank < layout.mesh.size:
            coordinate, layers = layout.mesh.coordinate(rank), layout.layers(rank)
            branches = layout.batches_at(coordinate[Axis.CFG])
            share = {
                "stage": coordinate[Axis.PIPE],
                "layers": f"{layers.start}-{layers.stop - 1}",
                "branches": "+".join(",".join(map(str, batch)) for batch in branches),
            }
        yield {
            "rank": replica * layout.size + rank,
            **share,
            **_memory(memory, known=known),
            "busy_seconds": None if simulation is None else simulation.busy[rank],
            "idle_percent": None if simulation is None else 100 * simulation.idle_of_ranks[rank],
        }


def _memory(memory: RankMemory, *, known: bool) -> Row:
    """Return a rank's memory in gigabytes, by part; ``None`` for weights that are not known."""
    parts = (
        memory.weights if known else None,
        memory.kv,
        memory.activations,
        memory.messages,
        memory.latents,
        memory.vae,
        memory.vae_peak,
        memory.text,
        memory.start,
    )
    sizes = dict(zip(_PARTS, parts, strict=True)) | {"peak_gb": memory.peak, "host_gb": memory.host}
    return {part: None if size is None else size / 1e9 for part, size in sizes.items()}


def _alternatives(
    chosen: ChosenLayout, layouts: Sequence[Layout], time: Callable[[Layout], Simulation]
) -> Iterator[Row]:
    for layout in layouts:
        simulation = time(layout)
        yield {
            **_mesh(layout, chosen.replicas.count),
            **_times(simulation),
            "chosen": "yes" if layout == chosen.layout else "no",
        }


def _mesh(layout: Layout, replicas: int) -> dict[str, Cell]:
    together = len(layout.batches) == 1
    degrees = zip(Axis, replace(layout.mesh, data=replicas).degrees, strict=True)
    return {
        "mesh": "x".join(f"{axis}{degree}" for axis, degree in degrees if degree > 1) or "1",
        "guidance": "together" if together else "apart",
        "layers_per_stage": ",".join(str(len(stage)) for stage in layout.stages),
        "decode_devices": layout.decoders,
    }
