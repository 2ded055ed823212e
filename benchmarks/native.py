"""The native engine against DeepSparse and ONNX Runtime, on the networks and with the aims that it was built for.

    python benchmarks/native.py                                              # about 20 minutes
    python benchmarks/native.py --works resnet50 newsgroups --batch 1 --rounds 31
    python benchmarks/native.py --works tiny                                 # shows that all of this works

Each engine uses the same cores, in a process of its own; in every round all engines visit the same network once, in
fresh random order, and ratios are paired by round. Prints a table; writes native.json and native.png, from which
native_tables.py makes the table of docs/native-engine.md. Use a quiet machine.
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

COMPARED = ("native", "deepsparse", "onnxruntime")


def native(
    *,
    works: Annotated[tuple[str, ...], Several] = (),
    batch: Annotated[tuple[int, ...], Several] = (1, 16),
    engines: Annotated[tuple[str, ...], Several] = (),
    rounds: int = 15,
    seconds: float = 8.0,
    cores: int | None = None,
    models: Path = REPOSITORY / "models",
    output: Path = REPOSITORY / "benchmarks" / "results",
) -> None:
    """Compare the latency of the native engine with that of other engines.

    Args:
        works: Works to measure, by name or by network; by default all but the tiny ones.
        batch: Batch sizes.
        engines: Engines to measure; by default native, deepsparse and onnxruntime, where installed.
        rounds: Least rounds of each work and batch size.
        seconds: Least time for the rounds of each work and batch size, so that short calls get more rounds.
        cores: Cores that each engine uses; by default the core budget of this process.
        models: Folder of shipped artifacts.
        output: Folder for native.json and native.png; a run with a tiny work writes native_smoke.* instead.
    """
    # Engine processes import this file as well, and must not load PyTorch and Matplotlib with it.
    from latency_run import choose_engines
    from native_report import plot, table
    from native_run import NativeRun
    from native_works import choose_works

    if min(batch) < 1 or rounds < 1 or seconds < 0 or (cores is not None and cores < 1):
        raise EngineError(
            f"--batch, --rounds and --cores must be at least 1 and --seconds not negative, not {batch}, {rounds}, "
            f"{cores} and {seconds}."
        )
    chosen = choose_works(works)
    found, missing = choose_engines(engines)
    compared = found if engines else tuple(name for name in COMPARED if name in found)
    started = time.perf_counter()

    def show(text: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    run = NativeRun(describe_environment(cores), compared, missing, batch, rounds, seconds, show)
    with tempfile.TemporaryDirectory(prefix="neurotrails-benchmark-") as workspace:
        results = run.measure(chosen, models, Path(workspace))
    name = "native_smoke" if results.smoke else "native"
    atomic_write(output / f"{name}.json", (results.model_dump_json(indent=1) + "\n").encode())
    atomic_write(output / f"{name}.png", plot(results))
    print(table(results))
    print(f"Written: {output / name}.json and .png", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(native, arguments)


if __name__ == "__main__":
    sys.exit(main())
