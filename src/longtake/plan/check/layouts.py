"""Layout check: whether a strategy's layout is one that a run can have."""

from __future__ import annotations

from itertools import chain

from longtake.errors import ConfigurationError
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload


def check_layout(
    strategy: str, layout: Layout, workload: Workload, world_size: int, replicas: int = 1
) -> None:
    """Refuse a layout that leaves something out, or that the framework cannot run.

    Args:
        strategy: Whose layout it is, for the message.
        layout: Decode ranks included.
        workload: What it was made for.
        world_size: Ranks that there are, of each replica.
        replicas: How many of them there are.

    Raises:
        ConfigurationError: Says what is wrong with it.
    """
    said = f"the strategy {strategy} lays out"
    if layout.size != world_size:
        raise ConfigurationError(
            f"{said} {layout.size} devices, but trainer.devices times trainer.num_nodes is "
            f"{world_size * replicas}{f', for {replicas} replicas' if replicas > 1 else ''}."
        )
    if layout.output_rank != 0:
        raise ConfigurationError(
            f"{said} rank {layout.output_rank} as the output rank, but the queue, the samplers and "
            f"the files are on rank 0: number the ranks so that rank 0 is on the first stage."
        )
    if layout.mesh.ring > 1 and workload.spec.sparse == "chosen":
        raise ConfigurationError(
            f"{said} a ring of {layout.mesh.ring}, but queries of {workload.spec.name} choose "
            f"among all keys (nabla), which no rank of a ring has; use ulysses instead."
        )
    layers = list(chain.from_iterable(layout.stages))
    if layers != list(range(workload.spec.layers)):
        raise ConfigurationError(
            f"{said} layers {_shown(layers)}, but {workload.spec.name} has layers "
            f"0..{workload.spec.layers - 1}: stages hold all of them, in order, each once."
        )
    branches = list(chain.from_iterable(layout.batches))
    if branches != list(range(workload.branches)):
        raise ConfigurationError(
            f"{said} guidance branches {_shown(branches)} of {workload.branches}: batches hold all "
            f"of them, in order, each once."
        )


def _shown(numbers: list[int]) -> str:
    return "none" if not numbers else ", ".join(map(str, numbers[:64]))
