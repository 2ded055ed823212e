"""What dynamic sparsity costs in training: steps with masks and their updates against the same steps without.

    python benchmarks/training_overhead.py                 # WRN-16-4 and the text encoder; about 3 minutes
    python benchmarks/training_overhead.py --rounds 2      # shows that it works

Two trainers hold the same network, one dense and one at density 0.2, and take the same batch in turns. A round is a
pair of plain steps and a pair in which the sparse trainer updates its masks; an update counts with the share of steps
that have one. Prints a table; writes training_overhead.json. Use a quiet machine.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from command_line import run_command
from environment import REPOSITORY, Environment, describe_environment
from intervals import estimate
from latency_results import Record, Seconds
from runtime.files import atomic_write
from training.batches import Batch, Batches
from training.config import TrainConfig, load_config
from training.loop import Trainer
from training.preparation import EVALUATION_BATCH, Prepared, prepare

MOST = 0.03
"""Aim: the largest share of the training time that dynamic sparsity may take."""
WARM_UP = 3
WORKS = {
    "WRN-16-4, batch 128": (
        "recipes/fashion-mnist.yaml",
        ("network.depth=16", "network.width=4", "ensemble.heads=1", "batch_size=128", "epochs=100"),
    ),
    "text encoder, batch 64": ("recipes/newsgroups.yaml", ("batch_size=64", "epochs=100")),
}
"""Name -> recipe and overrides."""


class Overhead(Record):
    """One network: seconds of steps by kind, in pairs, and what follows."""

    work: str
    update_every: int
    rounds: int
    dense_seconds: Seconds
    """Median of a step of the dense trainer."""
    plain: float
    """Median over pairs: (sparse step without update) / (dense step) - 1."""
    update: float
    """Median over pairs: (sparse step with update) / (dense step) - 1."""
    overhead: float
    """plain + (update - plain) / update_every."""
    interval: tuple[float, float]
    """Bootstrap interval of the overhead, 95 %."""


class OverheadResults(Record):
    """The whole benchmark."""

    environment: Environment
    aim: float
    works: tuple[Overhead, ...]


@dataclass(frozen=True)
class Pair:
    """The same network trained dense and sparse."""

    dense: Trainer
    sparse: Trainer

    def seconds(self, batch: Batch, step: int) -> tuple[float, float]:
        """Duration of step `step` on a batch: dense, sparse."""
        taken = []
        for trainer in (self.dense, self.sparse):
            trainer.progress.step = step
            started = time.perf_counter()
            trainer.step(batch)
            taken.append(time.perf_counter() - started)
        return taken[0], taken[1]


def measure(name: str, config: TrainConfig, rounds: int, folder: Path) -> Overhead:
    """Measure one network."""
    data = prepare(config, "")
    fit = Batches(data.parts.fit, data.preprocessor, config.batch_size)
    dense = config.model_copy(update={"sparsity": config.sparsity.model_copy(update={"density": 1.0})})
    pair = Pair(_trainer(dense, data, fit, folder / "dense"), _trainer(config, data, fit, folder / "sparse"))
    every = config.sparsity.update_every
    batches = cycle(list(_first(fit, config, 2 * rounds + WARM_UP)))
    for _ in range(WARM_UP):
        pair.seconds(next(batches), every)
    plain, update = [], []
    for _ in range(rounds):
        plain.append(pair.seconds(next(batches), every))
        update.append(pair.seconds(next(batches), every - 1))  # the step after which an update is due
    return overhead_of(name, np.array(plain), np.array(update), every)


def overhead_of(name: str, plain: NDArray[np.float64], update: NDArray[np.float64], update_every: int) -> Overhead:
    """What pairs of seconds say, [rounds, 2]: dense and sparse, in steps without and with an update."""
    ratio, ratio_update = plain[:, 1] / plain[:, 0] - 1, update[:, 1] / update[:, 0] - 1
    whole = estimate(ratio + (ratio_update - ratio) / update_every)
    return Overhead(
        work=name,
        update_every=update_every,
        rounds=len(plain),
        dense_seconds=float(np.median(np.concatenate([plain[:, 0], update[:, 0]]))),
        plain=float(np.median(ratio)),
        update=float(np.median(ratio_update)),
        overhead=whole.median,
        interval=(whole.low, whole.high),
    )


def training_overhead(*, threads: int = 2, rounds: int = 25, out: Path = REPOSITORY / "benchmarks/results") -> None:
    """Measure all networks.

    Args:
        threads: CPU threads.
        rounds: Rounds of two pairs of steps for each network.
        out: Folder for training_overhead.json.
    """
    environment = describe_environment(threads)
    configs = {
        work: load_config(REPOSITORY / recipe, [*overrides, f"threads={threads}", "sparsity.stop_at=1"])
        for work, (recipe, overrides) in WORKS.items()
    }
    with tempfile.TemporaryDirectory(prefix="neurotrails-") as name:
        works = tuple(
            measure(work, config, rounds, Path(name) / str(index))
            for index, (work, config) in enumerate(configs.items())
        )
    print(f"{'network':24} {'dense step':>11} {'plain':>8} {'update':>8} {'overhead':>9}   aim {MOST:.0%}")
    for each in works:
        print(
            f"{each.work:24} {1000 * each.dense_seconds:8.1f} ms {each.plain:8.2%} {each.update:8.2%} "
            f"{each.overhead:9.2%}   {'reached' if each.overhead <= MOST else 'missed'}"
        )
    results = OverheadResults(environment=environment, aim=MOST, works=works)
    atomic_write(out / "training_overhead.json", results.model_dump_json(indent=1).encode() + b"\n")


def _trainer(config: TrainConfig, data: Prepared, fit: Batches, run: Path) -> Trainer:
    run.mkdir(parents=True)
    description = data.description.model_copy(update={"config": config})
    select = Batches(data.parts.select, data.preprocessor, EVALUATION_BATCH)
    trainer = Trainer(run, description, fit, select, data.tokenizer)
    trainer.network.train()
    return trainer


def _first(fit: Batches, config: TrainConfig, count: int) -> list[Batch]:
    return [batch for _, batch in zip(range(count), fit.shuffled(config.seed, 0, 0, config.augment), strict=False)]


if __name__ == "__main__":
    sys.exit(run_command(training_overhead, None))
