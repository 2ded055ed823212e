"""Plans a network: which kernel computes what, from where to where, in which layout. Generates no code, runs nothing.

plan = plan_network(fuse(understand(...)), threads=2, machine=machine)
print(plan)
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runtime.engines.native import passes
from runtime.engines.native.convolutions import plan_convolve
from runtime.engines.native.graph import Network
from runtime.engines.native.machine import InstructionSet
from runtime.engines.native.operators import (
    Attend,
    Average,
    AveragePool,
    Choose,
    Combine,
    Convolve,
    Embed,
    Join,
    LayerNorm,
    MaxPool,
    Operator,
    Scale,
    Select,
    Source,
    Tensor,
)
from runtime.engines.native.plan import Output, Plan, assign
from runtime.engines.native.planner import Planner
from runtime.engines.native.streams import Packed

PLANNERS: dict[type[Operator], Callable[[Planner, Any], None]] = {
    Attend: passes.plan_attend, Average: passes.plan_average, AveragePool: passes.plan_average_pool,
    Choose: passes.plan_choose, Combine: passes.plan_combine, Convolve: plan_convolve, Embed: passes.plan_embed,
    Join: passes.plan_join, LayerNorm: passes.plan_layer_norm, MaxPool: passes.plan_max_pool,
    Scale: passes.plan_scale, Select: passes.plan_select, Source: passes.plan_source,
}  # fmt: skip


def plan_network(network: Network, *, threads: int, machine: InstructionSet) -> Plan:
    """Plan a fused network for `threads` threads of a machine."""
    return plan_ensemble(network, {}, threads=threads, machine=machine)


def plan_ensemble(
    trunk: Network,
    heads: Mapping[str, Network],
    *,
    threads: int,
    machine: InstructionSet,
    packed: Packed | None = None,
    team: int | None = None,
) -> Plan:
    """Plan a fused trunk, which may be empty, followed by fused heads side by side.

    Heads read the outputs of the trunk, and the model inputs, by name. With heads, the outputs of the plan are theirs,
    one each, by the keys of `heads`; without, those of the trunk. Plans with the same `packed` share packed weights;
    one for a single thread shares them with one for a team if it is told how large the `team` is.
    """
    known = {name: ref.tensor for name, ref in trunk.outputs.items()}
    networks = (trunk, *heads.values())
    bodies = [_connect(network, known) for network in networks]
    outputs = {head: ref for head, network in heads.items() for ref in network.outputs.values()} or trunk.outputs
    operators = [operator for body in bodies for operator in body]
    planner = Planner(operators, outputs, threads, team or threads, machine, packed or Packed())
    start = 0
    for network, body in zip(networks, bodies, strict=True):
        planner.network, planner.wave = network.name, start
        for operator in body:
            if operator.output not in planner.absorbed:
                PLANNERS[type(operator)](planner, operator)
        if network is trunk:
            start, planner.side_by_side = planner.wave, max(1, len(heads))
    for name, ref in outputs.items():
        buffer, layout = planner.tensors[ref.tensor]
        buffer.pinned = True
        planner.plan.outputs[name] = Output(buffer, layout, ref.tensor.space.lanes, ref.axes, ref.shape)
    planner.plan.arena_bytes = assign(planner.plan.buffers)
    return planner.plan


def _connect(network: Network, known: dict[str, Tensor]) -> list[Operator]:
    """Return the operators with every source that is known by name replaced by what is known; add the others to it."""
    same: dict[Tensor, Tensor] = {}
    operators: list[Operator] = []
    for operator in network.operators:
        if isinstance(operator, Source):
            if operator.name in known:
                same[operator.output] = known[operator.name]
                continue
            known[operator.name] = operator.output
        moved = {
            name: same[value] for name, value in vars(operator).items() if isinstance(value, Tensor) and value in same
        }
        operators.append(replace(operator, **moved) if moved else operator)
    return operators
