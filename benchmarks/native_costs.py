"""The cost model of the native engine: layers measured in every way that they can be computed, and the constants.

    taskset -c 1 python benchmarks/native_costs.py    # about 2 minutes
    python benchmarks/native_costs.py --smoke         # two layers: shows that all of this works

Each layer is planned once for each kernel, tile and number of blocks, and all of them are run in turns on one thread;
the minimum of each is what it can do. Pixels of a window are gathered as part of the layer. The constants of
runtime/engines/native/costs.py are judged by what their choices lose against the best that was measured, and
constants are fitted anew beside them. Prints a table; writes native_costs.json. Use a quiet machine.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from command_line import Switch, run_command
from cost_fit import Fit, fit_costs, fit_gather
from cost_layers import LAYERS, SMOKE_LAYERS, Layer, Way, measure_layer
from cost_results import Constant, CostResults, Judgement, MeasuredLayer, MeasuredWay, table
from environment import REPOSITORY, describe_environment
from runtime.engines.native.compile import instruction_sets, library
from runtime.engines.native.costs import COSTS
from runtime.errors import EngineError
from runtime.files import atomic_write


def native_costs(
    *,
    smoke: Annotated[bool, Switch] = False,
    turns: int = 8,
    output: Path = REPOSITORY / "benchmarks" / "results",
) -> None:
    """Measure layers in every way that they can be computed, and fit the constants of the planner's cost model.

    Args:
        smoke: Measure two small layers, and write native_costs_smoke.json.
        turns: How often all ways of a layer take turns.
        output: Folder for native_costs.json.
    """
    if turns < 1:
        raise EngineError(f"--turns must be at least 1, not {turns}.")
    environment = describe_environment(1)
    fastest = next(iter(instruction_sets()))
    layers = SMOKE_LAYERS if smoke else LAYERS
    measured: dict[Layer, list[Way]] = {}
    for layer in layers:
        print(f"{layer.name}, density {layer.density}: measuring", file=sys.stderr, flush=True)
        measured[layer] = measure_layer(layer, library(fastest), turns)
    # Where offsets do not reach over a block, the model is asked about one way and another one is measured.
    seen = [way.seen for ways in measured.values() for way in ways if way.blocks <= way.choice.blocks]
    present, fitted = fit_gather(seen, COSTS), fit_costs(seen)
    rows = tuple(describe(layer, ways, present, fitted) for layer, ways in measured.items())
    results = CostResults(
        smoke=smoke,
        environment=environment,
        instruction_set=fastest,
        turns=turns,
        constants=beside(asdict(present.costs), asdict(fitted.costs)),
        gather_seconds=beside(present.gather_seconds, fitted.gather_seconds),
        present=judge([row.present for row in rows], rows, error=present.rms_error(seen)),
        fitted=judge([row.fitted for row in rows], rows, error=fitted.rms_error(seen)),
        layers=rows,
    )
    path = output / ("native_costs_smoke.json" if smoke else "native_costs.json")
    atomic_write(path, (results.model_dump_json(indent=1) + "\n").encode())
    print(table(results))
    print(f"Written: {path}", file=sys.stderr)


def describe(layer: Layer, ways: Sequence[Way], present: Fit, fitted: Fit) -> MeasuredLayer:
    """One layer in all ways, and which are the best: measured, by the present constants, and by the fitted ones."""
    rows = tuple(
        MeasuredWay(
            kernel=way.choice.kernel, tile=way.choice.tile, blocks=way.choice.blocks, blocks_made=way.blocks,
            considered=way.considered, seconds=way.seen.seconds, predicted_seconds=present.estimate(way.seen),
            fitted_seconds=fitted.estimate(way.seen),
        )
        for way in ways
    )  # fmt: skip
    seen, considered = ways[0].seen, [row for row in rows if row.considered]
    return MeasuredLayer(
        layer=layer.name, inputs=layer.inputs, outputs=layer.outputs, window=layer.window, stride=layer.stride,
        height=layer.height, width=layer.width, density=layer.density, kept=seen.sizes.kept, gather=seen.gather,
        gathered_vectors=seen.gathered, best=min(considered, key=lambda row: row.seconds),
        present=min(considered, key=lambda row: row.predicted_seconds),
        fitted=min(considered, key=lambda row: row.fitted_seconds),
        ways=rows,
    )  # fmt: skip


def judge(chosen: Sequence[MeasuredWay], layers: Sequence[MeasuredLayer], *, error: float) -> Judgement:
    """What the chosen ways of all layers lose."""
    seconds, best = sum(way.seconds for way in chosen), sum(layer.best.seconds for layer in layers)
    worst = max(way.seconds / layer.best.seconds for way, layer in zip(chosen, layers, strict=True))
    return Judgement(rms_error=error, seconds=seconds, best_seconds=best, ratio=seconds / best, worst_ratio=worst)


def beside(present: dict[str, float], fitted: dict[str, float]) -> dict[str, Constant]:
    """Constants by name, old and new."""
    return {name: Constant(present=value, fitted=fitted[name]) for name, value in present.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(native_costs, arguments)


if __name__ == "__main__":
    sys.exit(main())
