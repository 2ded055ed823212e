"""Generated kernels against their plain-C twins, layer by layer, on one thread: what generating code costs in speed.

    python benchmarks/native_twins.py                 # ResNet-50, WRN-28-10 and the encoder; about 4 minutes
    python benchmarks/native_twins.py --works tiny    # shows that all of this works

Both sides compute the same step from the same arrays in turns, many times; the minimum of each is what its code can do.
Prints a table; writes native_twins.json. Needs a C compiler and AVX-512. Use a quiet machine.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from command_line import Several, run_command
from environment import REPOSITORY, Environment, describe_environment
from latency_report import aligned
from latency_results import Record, Seconds
from native_works import choose_works, prepare_work
from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.engines.base import EngineOptions
from runtime.engines.native.engine import NativeEngine
from runtime.errors import EngineError
from runtime.files import atomic_write
from twins import INSTRUCTION_SET, TWINNED, BoundStep, Side, Twins, compile_twins, twinned_steps, widest_tile

WORKS = ("resnet50-0.1", "wrn-28-10-0.2", "encoder-12x768-0.2")
MOST_SLOWER = 1.05
"""Generated code may take at most this many times the time of its twin."""
SIDES: tuple[Side, ...] = ("generated", "twin")


class TwinnedStep(Record):
    """One layer on both sides."""

    work: str
    kernel: str
    label: str
    tile: int
    """Vectors of its widest tile."""
    macs: int
    runs: int
    """Of each side, in turns."""
    seconds: dict[Side, Seconds]
    """Minimum over the runs."""
    ratio: float
    """Generated over twin."""


class KernelResult(Record):
    """All layers of a kernel together."""

    kernel: str
    steps: int
    seconds: dict[Side, Seconds]
    macs_per_second: dict[Side, float]
    ratio: float
    worst_ratio: float
    """Of one layer."""
    met: bool
    """Whether `ratio` is at most `aim`."""
    aim: float = MOST_SLOWER


class TwinResults(Record):
    """One run of native_twins.py."""

    benchmark: Literal["native_twins"] = "native_twins"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    compiler: str
    kernels: tuple[KernelResult, ...]
    steps: tuple[TwinnedStep, ...]


def native_twins(
    *,
    works: Annotated[tuple[str, ...], Several] = WORKS,
    runs: int = 30,
    output: Path = REPOSITORY / "benchmarks" / "results",
) -> None:
    """Compare the speed of generated kernels with that of plain C.

    Args:
        works: Works whose layers are compared, by name or by network; see native.py.
        runs: Runs of each layer on each side.
        output: Folder for native_twins.json; a run with a tiny work writes native_twins_smoke.json instead.
    """
    if runs < 1:
        raise EngineError(f"--runs must be at least 1, not {runs}.")
    chosen = choose_works(works)
    steps: list[TwinnedStep] = []
    with tempfile.TemporaryDirectory(prefix="neurotrails-benchmark-") as folder:
        twins = compile_twins(Path(folder))
        for work in chosen:
            print(f"{work.name}: preparing", file=sys.stderr, flush=True)
            prepared = prepare_work(work, REPOSITORY / "models", Path(folder), threads=1)
            print(f"{work.name}: measuring", file=sys.stderr, flush=True)
            steps += compare_steps(work.name, Artifact.open(prepared.folder), prepared.tokens, twins, runs)
    results = TwinResults(
        smoke=any(work.is_smoke for work in chosen),
        environment=describe_environment(1),
        compiler=twins.compiler,
        kernels=tuple(
            summary(kernel, found) for kernel in TWINNED if (found := [s for s in steps if s.kernel == kernel])
        ),
        steps=tuple(steps),
    )
    path = output / ("native_twins_smoke.json" if results.smoke else "native_twins.json")
    atomic_write(path, (results.model_dump_json(indent=1) + "\n").encode())
    print(table(results))
    print(f"Written: {path}", file=sys.stderr)


def compare_steps(work: str, artifact: Artifact, tokens: int | None, twins: Twins, runs: int) -> list[TwinnedStep]:
    """Time every twinned step of an artifact's trunk and first head, as planned for all cores."""
    lengths = None if tokens is None else (tokens,)
    chosen = type("Chosen", (NativeEngine,), {"instruction_set": INSTRUCTION_SET})
    engine = chosen(artifact, EngineOptions(cores=core_budget().cores, batch_sizes=(1,), lengths=lengths))
    plan = engine.plan(1)
    engine.close()
    return [_compare(work, BoundStep(plan, step, seed=0), twins, runs) for step in twinned_steps(plan)]


def _compare(work: str, bound: BoundStep, twins: Twins, runs: int) -> TwinnedStep:
    best: dict[Side, float] = dict.fromkeys(SIDES, float("inf"))
    for number in range(runs + 1):
        for side in SIDES if number % 2 else SIDES[::-1]:
            started = time.perf_counter()
            twins.run(bound, side)
            elapsed = time.perf_counter() - started
            if number:  # the first run is cold
                best[side] = min(best[side], elapsed)
    step = bound.step
    return TwinnedStep(
        work=work, kernel=step.kernel, label=step.label, tile=widest_tile(step), macs=step.macs, runs=runs,
        seconds=best, ratio=best["generated"] / best["twin"],
    )  # fmt: skip


def summary(kernel: str, steps: list[TwinnedStep]) -> KernelResult:
    """Add up the layers of a kernel."""
    seconds: dict[Side, float] = {side: float(np.sum([step.seconds[side] for step in steps])) for side in SIDES}
    macs = sum(step.macs for step in steps)
    ratio = seconds["generated"] / seconds["twin"]
    return KernelResult(
        kernel=kernel, steps=len(steps), seconds=seconds,
        macs_per_second={side: macs / value for side, value in seconds.items()}, ratio=ratio,
        worst_ratio=max(step.ratio for step in steps), met=ratio <= MOST_SLOWER,
    )  # fmt: skip


def table(results: TwinResults) -> str:
    """All layers, then all kernels, as plain text."""
    rows = [("layer", "kernel", "tile", "generated us", "twin us", "ratio")]
    rows += [
        (f"{step.work} {step.label}", step.kernel, str(step.tile), *_microseconds(step.seconds), f"{step.ratio:.3f}")
        for step in results.steps
    ]
    totals = [("kernel", "layers", "generated us", "twin us", "GMAC/s generated", "ratio", "worst", "")]
    totals += [
        (
            each.kernel, str(each.steps), *_microseconds(each.seconds),
            f"{each.macs_per_second['generated'] / 1e9:.1f}", f"{each.ratio:.3f}", f"{each.worst_ratio:.3f}",
            f"{'met' if each.met else 'missed'} (at most {each.aim:.2f})",
        )
        for each in results.kernels
    ]  # fmt: skip
    title = f"{results.environment.cpu}, 1 thread; twins by {results.compiler}"
    smoke = ["SMOKE RUN: shows that the benchmark works; the numbers mean nothing."] if results.smoke else []
    return "\n".join([*smoke, title, *aligned(rows, left=2), "", *aligned(totals, left=1)])


def _microseconds(seconds: dict[Side, float]) -> tuple[str, str]:
    return f"{1e6 * seconds['generated']:.1f}", f"{1e6 * seconds['twin']:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(native_twins, arguments)


if __name__ == "__main__":
    sys.exit(main())
