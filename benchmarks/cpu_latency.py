"""Latency on this CPU: a sparse multi-head network against the dense ensemble that it replaces, on every engine.

    python benchmarks/cpu_latency.py                      # shipped networks and ResNet-50; about 5 minutes
    python benchmarks/cpu_latency.py --networks resnet50 --engines deepsparse --batches 1 --seconds 60

Measured through the same predictor as in serving, without HTTP. For each network and batch size all subjects (1 to M
heads of the sparse network, one dense network, the dense ensemble of M; on each engine) are visited once per round, in
fresh random order. Prints a table; writes cpu_latency.json and cpu_latency.png.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from command_line import Several, Switch, run_command
from environment import REPOSITORY, describe_environment
from runtime.artifact import MANIFEST
from runtime.errors import EngineError
from runtime.files import atomic_write


def cpu_latency(
    *,
    networks: Annotated[tuple[str, ...], Several] = (),
    engines: Annotated[tuple[str, ...], Several] = (),
    batches: Annotated[tuple[int, ...], Several] = (1, 16),
    cores: int | None = None,
    seconds: float = 300.0,
    models: Path = REPOSITORY / "models",
    out: Path = REPOSITORY / "benchmarks" / "results",
    smoke: Annotated[bool, Switch] = False,
) -> None:
    """Measure latency of sparse multi-head networks and of the dense ensembles that they replace.

    Args:
        networks: `shipped` (all artifacts in --models), the name of one, `resnet50` or `wrn-28-10`; by default shipped
            and resnet50.
        engines: Engines to measure; by default all that are installed.
        batches: Batch sizes.
        cores: Cores that each engine uses; by default the core budget of this process.
        seconds: Time for everything, exporting and compiling included; at least 5 rounds are measured, though.
        models: Folder of shipped artifacts.
        out: Folder for cpu_latency.json and cpu_latency.png.
        smoke: Measure a tiny network for 2 rounds, to show that all of this works; writes cpu_latency_smoke.*.
    """
    # Engine processes import this file as well, and must not load PyTorch and Matplotlib with it.
    from latency_report import plot, table
    from latency_run import Run, choose_engines

    if min(batches) < 1 or (cores is not None and cores < 1):
        raise EngineError(f"--batches and --cores must be at least 1, not {batches} and {cores}.")
    if smoke:
        networks, seconds = networks or ("tiny",), 0.0
    elif not networks:
        networks = ("shipped", "resnet50") if any(models.glob(f"*/{MANIFEST}")) else ("resnet50",)
    chosen, missing = choose_engines(engines)
    environment = describe_environment(cores)
    with _progress(seconds) as show, tempfile.TemporaryDirectory(prefix="neurotrails-benchmark-") as workspace:
        results = Run(environment, chosen, missing, batches, seconds, smoke, show).measure(
            networks, models, Path(workspace)
        )
    name = "cpu_latency_smoke" if smoke else "cpu_latency"
    atomic_write(out / f"{name}.json", (results.model_dump_json(indent=1) + "\n").encode())
    atomic_write(out / f"{name}.png", plot(results))
    print(table(results))
    print(f"Written: {out / name}.json and .png", file=sys.stderr)


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str], None]]:
    """Show a bar that fills with the time that is used; yields what sets its text."""
    started = time.perf_counter()
    with tqdm(total=seconds, unit="s", bar_format="{desc:45.45} |{bar}| {n:.0f}/{total:.0f} s") as bar:

        def show(text: str) -> None:
            bar.set_description_str(text, refresh=False)
            bar.n = min(time.perf_counter() - started, seconds)
            bar.refresh()

        yield show


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(cpu_latency, arguments)


if __name__ == "__main__":
    sys.exit(main())
