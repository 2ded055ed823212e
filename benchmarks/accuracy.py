"""Accuracy of sparse multi-head networks against what they replace: a grid of trainings, interrupted at will.

    python benchmarks/accuracy.py                         # the whole study; hours. Start it again to go on
    python benchmarks/accuracy.py --list                  # what is done and what is left
    python benchmarks/accuracy.py --stages 1 --data newsgroups --seeds 1 --jobs 2
    python benchmarks/accuracy.py --smoke --seeds 1       # shows that all of this works; the numbers mean nothing

Stage 1: one dense network, the ensemble of 3, TreeNet and NeuroTrails. Stage 2: static, DST and EDST ensembles. Stage
3: NeuroTrails with other numbers of blocks in a head, densities and heads. Within a stage all of seed 1 comes first.
Every run is trained and measured in processes of its own: first all are trained, and measured on the report part; the
test part is measured once for each, at the end. `accuracy_tables.py` makes the documents' tables from the results.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from accuracy_grid import DATA, SEEDS, STAGES, Entry, GridError, grid
from accuracy_processes import Processes, read_times
from accuracy_results import read_results
from accuracy_run import Study, Training, for_each, measure, train
from accuracy_smoke import smoke_overrides
from command_line import Several, Switch, run_command
from environment import REPOSITORY, describe_environment

RUNS = REPOSITORY / "runs"


def accuracy(
    *,
    stages: Annotated[tuple[int, ...], Several] = STAGES,
    data: Annotated[tuple[str, ...], Several] = DATA,
    seeds: Annotated[tuple[int, ...], Several] = SEEDS,
    methods: Annotated[tuple[str, ...], Several] = (),
    runs: Path | None = None,
    out: Path | None = None,
    threads: int = 1,
    jobs: int = 1,
    list_: Annotated[bool, Switch] = False,
    only_train: Annotated[bool, Switch] = False,
    only_evaluate: Annotated[bool, Switch] = False,
    hold_back_test: Annotated[bool, Switch] = False,
    smoke: Annotated[bool, Switch] = False,
) -> None:
    """Train and measure the entries of the study that are not done yet.

    Args:
        stages: Stages of the grid.
        data: Data sets: fashion-mnist, newsgroups.
        seeds: Seeds.
        methods: Methods, such as dense or neurotrails; all if not given.
        runs: Folder for checkpoints; by default runs/accuracy.
        out: Folder for results; by default benchmarks/results/accuracy.
        threads: CPU threads of each process.
        jobs: Processes side by side.
        list_: Only say what is done and what is left.
        only_train: Measure nothing.
        only_evaluate: Train nothing; measure what is trained.
        hold_back_test: Do not measure the test part yet.
        smoke: Train tiny networks on made-up data for a few steps, to show that all of this works; by default in
            runs/accuracy-smoke, results included.
    """
    # Matplotlib is loaded here: `--list` and wrong options need not wait for it.
    from accuracy_plots import write_plots
    from accuracy_tables import study as tables

    if min(threads, jobs) < 1:
        raise GridError(f"--threads and --jobs must be at least 1, not {threads} and {jobs}.")
    if only_train and only_evaluate:
        raise GridError("--only-train and --only-evaluate exclude each other.")
    entries = grid(stages, data, seeds, methods)
    study = _study(runs, out, smoke=smoke)
    if list_:
        print(listing(study, entries))
        return
    processes, environment = Processes(threads), describe_environment(threads)

    def work_on(entry: Entry) -> str:
        said = []
        if not only_evaluate and study.training(entry) is not Training.DONE:
            train(study, entry, processes)
            said.append(f"trained, {read_times(study.run(entry)).wall_seconds:.0f} s")
        if not only_train and study.training(entry) is Training.DONE:
            result = measure(study, entry, "report", environment, processes)
            said.append(f"report accuracy {result.report.accuracy:.4f}")
        return ", ".join(said) or "not trained"

    def test(entry: Entry) -> str:
        result = measure(study, entry, "test", environment, processes)
        return f"test accuracy {result.test.accuracy:.4f}" if result.test is not None else "no test part"

    failed = for_each([entry for entry in entries if not _is_done(study, entry)], work_on, processes, jobs)
    if not only_train and not hold_back_test and not failed:
        untested = [e for e in entries if (result := study.measured(e)) is not None and result.test is None]
        failed += for_each(untested, test, processes, jobs)
    if not only_train:
        results = read_results(study.results)
        write_plots(study.results, results)
        print(tables(results))
    if failed:
        raise GridError(f"{failed} runs failed; what they said stands above. Start again to retry.")


def listing(study: Study, entries: Sequence[Entry]) -> str:
    """What is done and what is left, a line for each entry."""
    lines = []
    for entry in entries:
        result = study.measured(entry)
        measured = "" if result is None else "measured on report" if result.test is None else "measured on report, test"
        lines.append(f"stage {entry.stage}  {entry.name:50} {study.training(entry):13} {measured}".rstrip())
    done = sum(_is_done(study, entry) for entry in entries)
    return "\n".join([*lines, f"{done} of {len(entries)} runs are done."])


def _study(runs: Path | None, out: Path | None, *, smoke: bool) -> Study:
    """Folders of the study; smoke runs keep apart from genuine ones."""
    if not smoke:
        results = REPOSITORY / "benchmarks" / "results" / "accuracy"
        return Study((runs or RUNS / "accuracy").absolute(), (out or results).absolute(), REPOSITORY / "recipes")
    runs = (runs or RUNS / "accuracy-smoke").absolute()
    overrides = {name: smoke_overrides(name, runs / "data") for name in DATA}
    return Study(runs, (out or runs / "results").absolute(), REPOSITORY / "recipes", overrides, smoke=True)


def _is_done(study: Study, entry: Entry) -> bool:
    result = study.measured(entry)
    return result is not None and result.test is not None


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(accuracy, arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # the processes that train are told to end, too
    sys.exit(main())
