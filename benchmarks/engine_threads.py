"""On which threads ONNX Runtime is fastest: one pool or one for each session, spinning or not, alone or with company.

    python benchmarks/engine_threads.py                              # the shipped artifacts; about 4 minutes
    python benchmarks/engine_threads.py --networks resnet50 --rounds 9
    python benchmarks/engine_threads.py --networks tiny --rounds 2   # shows that it works

An artifact is several sessions, trunk and heads, that run one after the other: threads of one that still spin take the
cores from the next. So each way of waiting is measured in a process of its own, through the predictor; alone, and while
another process keeps one core busy. In every round all ways are visited in both situations in fresh random order, and
ratios are paired by round: the machine need not be quiet. Prints a table; writes engine_threads.json.
"""

import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from command_line import Several, run_command
from engine_process import EngineProcess
from environment import REPOSITORY, Environment, describe_environment
from intervals import CONFIDENCE, estimate, paired_ratio, round_values
from latency_results import Interval, Record
from runtime.artifact import MANIFEST, Artifact
from runtime.engines.onnxruntime import OnnxRuntimeEngine, Threads
from runtime.errors import EngineError
from runtime.files import atomic_write
from runtime.table import table

WAYS = {
    "one pool, spins": Threads(shared=True, spinning="always"),
    "one pool, spins while running": Threads(shared=True, spinning="running"),
    "own pools, spin": Threads(shared=False, spinning="always"),
    "own pools, spin while running": Threads(shared=False, spinning="running"),
    "own pools, sleep": Threads(shared=False, spinning="never"),
}
BASELINE = "one pool, spins"
Situation = Literal["alone", "busy neighbour"]
SITUATIONS: tuple[Situation, ...] = ("alone", "busy neighbour")
SEED = 0


class ThreadsRow(Record):
    """One artifact, run in one way in one situation."""

    network: str
    situation: Situation
    way: str
    seconds: Interval
    """Median over rounds of a call with all heads, with its interval."""
    ratio: Interval
    """How many times faster than BASELINE in the same situation, paired by round."""


class ThreadsResults(Record):
    """One run of engine_threads.py."""

    benchmark: Literal["engine_threads"] = "engine_threads"
    smoke: bool
    """True: a run that only shows that the benchmark works; its numbers mean nothing."""
    environment: Environment
    confidence: float = CONFIDENCE
    baseline: str = BASELINE
    default: str
    """The way in which the engine runs unless told otherwise."""
    batch: int
    rounds: int
    rows: tuple[ThreadsRow, ...]


def engine_threads(
    *,
    networks: Annotated[tuple[str, ...], Several] = (),
    batch: int = 1,
    rounds: int = 25,
    cores: int | None = None,
    models: Path = REPOSITORY / "models",
    output: Path = REPOSITORY / "benchmarks" / "results",
) -> None:
    """Compare the ways in which threads of ONNX Runtime wait for work.

    Args:
        networks: Shipped artifacts, or architectures with live random weights; by default all that are shipped.
        batch: Batch size.
        rounds: Rounds for each network.
        cores: Cores to compute on; by default the core budget of this process.
        models: Folder of shipped artifacts.
        output: Folder for engine_threads.json; a run with a tiny network writes engine_threads_smoke.json instead.
    """
    if batch < 1 or rounds < 1 or (cores is not None and cores < 1):
        raise EngineError(f"--batch, --rounds and --cores must be at least 1, not {batch}, {rounds} and {cores}.")
    environment = describe_environment(cores)
    names = networks or tuple(sorted(path.parent.name for path in models.glob(f"*/{MANIFEST}")))
    rows: list[ThreadsRow] = []
    with tempfile.TemporaryDirectory(prefix="neurotrails-benchmark-") as workspace:
        for name in names:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            folder = _folder(name, models, Path(workspace))
            rows += _measure(name, folder, batch, rounds, environment.cores)
    smoke = any(name.startswith("tiny") for name in names)
    default = next(name for name, way in WAYS.items() if way == OnnxRuntimeEngine.threads)
    results = ThreadsResults(
        smoke=smoke, environment=environment, default=default, batch=batch, rounds=rounds, rows=tuple(rows),
    )  # fmt: skip
    path = output / ("engine_threads_smoke.json" if smoke else "engine_threads.json")
    atomic_write(path, (results.model_dump_json(indent=1) + "\n").encode())
    print(table_of(results))
    print(f"Written: {path}", file=sys.stderr)


def table_of(results: ThreadsResults) -> str:
    """Rows of the results as a table for a terminal."""
    lines = [
        (
            row.network, row.situation, row.way, f"{1e3 * row.seconds.median:.2f}",
            f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})",
        )
        for row in results.rows
    ]  # fmt: skip
    header = ("network", "situation", "threads", "ms", f"speed-up over {results.baseline!r}")
    return "\n".join(table([header, *lines]))


def _measure(name: str, folder: Path, batch: int, rounds: int, cores: int) -> list[ThreadsRow]:
    manifest = Artifact.open(folder).manifest
    heads = len(manifest.heads)
    calls: dict[tuple[Situation, str], list[list[float]]] = {each: [] for each in itertools.product(SITUATIONS, WAYS)}
    generator = np.random.default_rng(SEED)
    with ExitStack() as stack:
        processes: dict[str, EngineProcess] = {}
        for way, threads in WAYS.items():
            process = EngineProcess(OnnxRuntimeEngine.name, cores=cores, setup=partial(choose_threads, threads))
            processes[way] = stack.enter_context(process)
            process.load(name, folder, batch_sizes=(batch,), tokens=None)
            process.prime(name, batch=batch, heads=heads)
        for _ in range(rounds):
            for situation in generator.permutation(SITUATIONS):
                with _neighbour(busy=situation == "busy neighbour"):
                    for way in generator.permutation(list(WAYS)):
                        calls[situation, way].append(processes[way].measure(name, batch=batch, heads=heads))
    rows = []
    for (situation, way), found in calls.items():
        median = estimate(round_values(found))
        ratio = paired_ratio(found, calls[situation, BASELINE])
        rows.append(
            ThreadsRow(
                network=name, situation=situation, way=way, seconds=Interval.of(median), ratio=Interval.of(ratio)
            )
        )
    return rows


def choose_threads(threads: Threads) -> None:
    """Make all ONNX Runtime engines of this process run in that way."""
    OnnxRuntimeEngine.threads = threads


def _folder(name: str, models: Path, workspace: Path) -> Path:
    if (models / name / MANIFEST).exists():
        return models / name
    from live_networks import LIVE  # engine processes import this file as well, and must not load PyTorch with it

    if name not in LIVE:
        raise EngineError(f"--networks: there is no {name!r}. Choose an artifact of {models}, or of {', '.join(LIVE)}.")
    LIVE[name].write(workspace / name)
    return workspace / name


@contextmanager
def _neighbour(*, busy: bool) -> Iterator[None]:
    """While open, another process keeps one core busy."""
    if not busy:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(engine_threads, arguments)


if __name__ == "__main__":
    sys.exit(main())
