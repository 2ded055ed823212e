"""Should I use this? At which density does sparse execution beat the best dense execution of the same network?

    python benchmarks/crossover.py                                                   # about 40 minutes
    python benchmarks/crossover.py --networks resnet50 --density 0.05 0.1 0.2 --batch 1
    python benchmarks/crossover.py --networks tiny --density 0.1 0.3                 # shows that all of this works

Networks of genuine size with live random weights are computed by engines that skip zeros (native; DeepSparse in float32
and int8) at several densities, and with all their weights by those that do not (ONNX Runtime in float32 and int8,
OpenVINO in float32, bfloat16 and int8). Prints a table; writes crossover.json and crossover.png after each network
and batch size; crossover_tables.py makes the table of docs/crossover.md from them. Use a quiet machine.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from command_line import Several, run_command
from environment import REPOSITORY, describe_environment
from runtime.errors import EngineError
from runtime.files import atomic_write

NETWORKS = ("wrn-28-10", "resnet50", "encoder-12x768")
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)


def crossover(
    *,
    networks: Annotated[tuple[str, ...], Several] = NETWORKS,
    density: Annotated[tuple[float, ...], Several] = DENSITIES,
    batch: Annotated[tuple[int, ...], Several] = (1, 16),
    engines: Annotated[tuple[str, ...], Several] = (),
    rounds: int = 7,
    seconds: float = 20.0,
    cores: int | None = None,
    output: Path = REPOSITORY / "benchmarks" / "results",
) -> None:
    """Find the density below which sparse execution is faster than the best dense execution.

    Args:
        networks: Networks to measure.
        density: Densities of the sparse executions, between 0 and 1.
        batch: Batch sizes.
        engines: Engines to measure; by default all that are installed.
        rounds: Least rounds of each network and batch size.
        seconds: Least time for the rounds of each network and batch size.
        cores: Cores that each engine uses; by default the core budget of this process.
        output: Folder for crossover.json and crossover.png; a run with a tiny network writes crossover_smoke.*.
    """
    # Engine processes import this file as well, and must not load PyTorch and Matplotlib with it.
    from crossover_report import plot, table
    from crossover_run import CrossoverRun, choose_networks
    from latency_run import choose_engines

    if min(batch, default=0) < 1 or rounds < 1 or seconds < 0 or (cores is not None and cores < 1):
        raise EngineError(
            f"--batch, --rounds and --cores must be at least 1 and --seconds not negative, not {batch}, {rounds}, "
            f"{cores} and {seconds}."
        )
    if not density or not all(0 < each < 1 for each in density):
        raise EngineError(f"--density must lie between 0 and 1, not {density}: dense executions are measured anyway.")
    recipes = choose_networks(networks)
    found, missing = choose_engines(engines)
    started = time.perf_counter()

    def show(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    run = CrossoverRun(
        describe_environment(cores), found, missing, tuple(sorted(set(density))), batch, rounds, seconds, show
    )
    with tempfile.TemporaryDirectory(prefix="neurotrails-benchmark-") as workspace:
        for results in run.measure(recipes, Path(workspace)):
            name = "crossover_smoke" if results.smoke else "crossover"
            atomic_write(output / f"{name}.json", (results.model_dump_json(indent=1) + "\n").encode())
            atomic_write(output / f"{name}.png", plot(results))
    print(table(results))
    print(f"Written: {output / name}.json and .png", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(crossover, arguments)


if __name__ == "__main__":
    sys.exit(main())
