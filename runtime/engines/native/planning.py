"""Plans a network: which kernel computes what, from where to where, in which layout. Generates no code, runs nothing.

plan = plan_network(fuse(understand(...)), threads=2, machine=machine)
print(plan)
"""

from collections.abc import Callable
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
)
from runtime.engines.native.plan import Plan, assign
from runtime.engines.native.planner import Packed, Planner

PLANNERS: dict[type[Operator], Callable[[Planner, Any], None]] = {
    Attend: passes.plan_attend, Average: passes.plan_average, AveragePool: passes.plan_average_pool,
    Choose: passes.plan_choose, Combine: passes.plan_combine, Convolve: plan_convolve, Embed: passes.plan_embed,
    Join: passes.plan_join, LayerNorm: passes.plan_layer_norm, MaxPool: passes.plan_max_pool,
    Scale: passes.plan_scale, Select: passes.plan_select, Source: passes.plan_source,
}  # fmt: skip


def plan_network(network: Network, *, threads: int, machine: InstructionSet, packed: Packed | None = None) -> Plan:
    """Plan a fused network for `threads` threads of a machine.

    Plans of the same graph at other shapes may pass the same `packed`, and then share packed weights.
    """
    planner = Planner(network, threads, machine, {} if packed is None else packed)
    for operator in network.operators:
        if operator.output not in planner.absorbed:
            PLANNERS[type(operator)](planner, operator)
    for name, ref in network.outputs.items():
        buffer, layout = planner.tensors[ref.tensor]
        buffer.pinned = True
        planner.plan.outputs[name] = (buffer, layout, ref)
    planner.plan.arena_bytes = assign(planner.plan.buffers)
    return planner.plan
