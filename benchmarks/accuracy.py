"""Accuracy of sparse multi-head networks against what they replace: a grid of trainings, interrupted at will.

    python benchmarks/accuracy.py                         # the whole study; hours. Start it again to go on
    python benchmarks/accuracy.py --list                  # what is done and what is left
    python benchmarks/accuracy.py --stages 1 --data newsgroups --seeds 1 --jobs 2
    python benchmarks/accuracy.py --smoke                 # shows that all of this works; the numbers mean nothing

Stage 1: one dense network, the ensemble of 3, TreeNet and NeuroTrails. Stage 2: static, DST and EDST ensembles. Stage
3: NeuroTrails with other numbers of blocks in a head, densities and heads. Within a stage all of seed 1 comes first.
Every run is trained and measured in processes of its own.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from accuracy_grid import DATA, SEEDS, STAGES, Entry, GridError, grid
from accuracy_processes import Processes, read_times
from accuracy_run import Study, Training, for_each, train
from command_line import Several, Switch, run_command
from environment import REPOSITORY


def accuracy(
    *,
    stages: Annotated[tuple[int, ...], Several] = STAGES,
    data: Annotated[tuple[str, ...], Several] = DATA,
    seeds: Annotated[tuple[int, ...], Several] = SEEDS,
    methods: Annotated[tuple[str, ...], Several] = (),
    runs: Path = REPOSITORY / "runs" / "accuracy",
    out: Path = REPOSITORY / "benchmarks" / "results" / "accuracy",
    threads: int = 1,
    jobs: int = 1,
    list_: Annotated[bool, Switch] = False,
) -> None:
    """Train and measure the entries of the study that are not done yet.

    Args:
        stages: Stages of the grid.
        data: Data sets: fashion-mnist, newsgroups.
        seeds: Seeds.
        methods: Methods, such as dense or neurotrails; all if not given.
        runs: Folder for checkpoints.
        out: Folder for results.
        threads: CPU threads of each process.
        jobs: Processes side by side.
        list_: Only say what is done and what is left.
    """
    if min(threads, jobs) < 1:
        raise GridError(f"--threads and --jobs must be at least 1, not {threads} and {jobs}.")
    entries = grid(stages, data, seeds, methods)
    study = Study(runs.absolute(), out.absolute(), REPOSITORY / "recipes")
    if list_:
        print(listing(study, entries))
        return
    processes = Processes(threads)
    signal.signal(signal.SIGTERM, _interrupt)

    def train_one(entry: Entry) -> str:
        train(study, entry, processes)
        return f"trained, {read_times(study.run(entry)).wall_seconds:.0f} s"

    left = [entry for entry in entries if study.training(entry) is not Training.DONE]
    failed = for_each(left, train_one, processes, jobs)
    if failed:
        raise GridError(f"{failed} of {len(left)} runs failed; what they said stands above. Start again to retry.")


def listing(study: Study, entries: tuple[Entry, ...]) -> str:
    """What is done and what is left, a line for each entry."""
    lines = [f"stage {entry.stage}  {study.training(entry):13}{entry.name}" for entry in entries]
    done = sum(study.training(entry) is Training.DONE for entry in entries)
    return "\n".join([*lines, f"{done} of {len(entries)} runs are trained."])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(accuracy, arguments)


if __name__ == "__main__":
    sys.exit(main())
