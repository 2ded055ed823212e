"""The server against the bare predictor: added latency, saturation, overload with and without shedding, integrity.

    python benchmarks/serving.py                                  # about 11 minutes, on a quiet machine
    python benchmarks/serving.py --scenarios latency saturation
    python benchmarks/serving.py --scenarios integrity --requests 10000
    python benchmarks/serving.py --smoke                          # shows that all of this works

The server is `neurotrails serve` in a process on one core, the load generator runs on another one, the bare predictor
in a process on the server's core, in turns with it. Prints a table; writes serving.json and serving.png, from which
serving_tables.py makes the table of docs/serving-benchmark.md. Scenarios that are not run keep what was measured last.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from command_line import Several, Switch, run_command
from environment import REPOSITORY, describe_environment
from runtime.files import atomic_write

SCENARIOS = ("latency", "saturation", "overload", "integrity")


def serving(
    *,
    scenarios: Annotated[tuple[str, ...], Several] = SCENARIOS,
    engine: str = "auto",
    requests: int | None = None,
    models: Path = REPOSITORY / "models",
    output: Path = REPOSITORY / "benchmarks" / "results",
    smoke: Annotated[bool, Switch] = False,
) -> None:
    """Measure the server against the bare predictor, and check its answers under faults.

    Args:
        scenarios: Any of latency, saturation, overload and integrity; by default all.
        engine: Engine of the server and of the bare predictor.
        requests: Requests of integrity; by default 100000.
        models: Folder of the shipped artifacts.
        output: Folder for serving.json and serving.png.
        smoke: Use a tiny network and little time, to show that all of this works; writes serving_smoke.* instead.
    """
    # Processes of the bare predictor import this file as well, and must not load all of that with it.
    from serving_integrity import measure_integrity
    from serving_machine import ServingBenchmarkError, choose_cores, pinned
    from serving_overload import measure_overload
    from serving_report import plot, table
    from serving_results import ServingResults
    from serving_setup import FULL, SMOKE, Run
    from serving_speed import measure_latency, measure_saturation

    measures = {
        "latency": measure_latency,
        "saturation": measure_saturation,
        "overload": measure_overload,
        "integrity": measure_integrity,
    }
    unknown = [name for name in scenarios if name not in measures]
    if unknown or not scenarios:
        raise ServingBenchmarkError(f"There is no scenario {', '.join(unknown)!r}. Choose from: {', '.join(measures)}.")
    if requests is not None and requests < 1:
        raise ServingBenchmarkError(f"--requests must be at least 1, not {requests}.")
    plan = SMOKE if smoke else FULL
    if requests is not None:
        plan = replace(plan, requests=requests)
    started = time.perf_counter()

    def show(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    path = output / ("serving_smoke.json" if smoke else "serving.json")
    known = ServingResults.model_validate_json(path.read_bytes()) if path.exists() else ServingResults(smoke=smoke)
    cores = choose_cores()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="neurotrails-serving-") as workspace, pinned(cores.load):
        environment = describe_environment(1).model_copy(update={"cores_source": "one for the server and its engine"})
        run = Run(plan, environment, cores, engine, models, Path(workspace), show)
        for name in SCENARIOS:
            if name in scenarios:
                measured[name] = measures[name](run)
    results = ServingResults.model_validate({**dict(known), **measured})
    atomic_write(path, (results.model_dump_json(indent=1) + "\n").encode())
    if results.overload is not None:
        atomic_write(path.with_suffix(".png"), plot(results.overload, smoke=smoke))
    print(table(results))
    show(f"Written: {path} and .png")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(serving, arguments)


if __name__ == "__main__":
    sys.exit(main())
