"""Runs entries of the study: trains what is not trained, goes on with what was interrupted, measures what is not
measured.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import yaml

from accuracy_grid import Data, Entry
from accuracy_processes import Locked, Processes, ProcessFailed
from accuracy_results import Measured, RunResult, read_result, write_result
from accuracy_summary import Part
from environment import REPOSITORY, Environment
from runtime.errors import NeurotrailsError
from runtime.files import atomic_write

MEASURE = REPOSITORY / "benchmarks" / "accuracy_measure.py"


SETTINGS = "study-settings"
"""File in a run folder: the hash of the settings that it is trained with."""


class OtherSettings(NeurotrailsError):  # noqa: N818 - reads as a statement
    """A run folder was trained with other settings than those of the grid."""


class Training(StrEnum):
    """Where the training of an entry stands."""

    MISSING = "not trained"
    STARTED = "half trained"
    DONE = "trained"


@dataclass(frozen=True)
class Study:
    """Where the study finds its recipes, keeps its runs and writes its results."""

    runs: Path
    results: Path
    recipes: Path
    overrides: Mapping[Data, tuple[str, ...]] = field(default_factory=dict)
    """Changes to a data set's recipe, ahead of those of an entry."""
    smoke: bool = False
    """Whether runs only show that the code works."""

    def recipe(self, entry: Entry) -> Path:
        """Recipe of an entry's data set."""
        return self.recipes / f"study-{entry.data}.yaml"

    def run(self, entry: Entry) -> Path:
        """Run folder of an entry."""
        return self.runs / entry.name

    def result(self, entry: Entry) -> Path:
        """Result file of an entry."""
        return self.results / f"{entry.name}.json"

    def all_overrides(self, entry: Entry) -> tuple[str, ...]:
        """All changes to the recipe."""
        return (*self.overrides.get(entry.data, ()), *entry.overrides)

    def settings_sha256(self, entry: Entry) -> str:
        """Hash of what decides an entry's result: the content of its recipe (comments aside) and the overrides."""
        settings = [yaml.safe_load(self.recipe(entry).read_text()), self.all_overrides(entry)]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def training(self, entry: Entry) -> Training:
        """Where the training of an entry stands, from its run folder."""
        states = sorted(self.run(entry).glob("checkpoints/step-*/state.json"))
        if states and json.loads(states[-1].read_bytes())["finished"]:
            return Training.DONE
        begun = states or any(self.run(entry).glob("members/*/checkpoints/step-*"))
        return Training.STARTED if begun else Training.MISSING

    def claim(self, entry: Entry) -> None:
        """Write down the settings of a run folder, if it is new. Raises OtherSettings when it has others."""
        run, settings = self.run(entry), self.settings_sha256(entry)
        if (run / SETTINGS).exists():
            if (run / SETTINGS).read_text().strip() != settings:
                raise OtherSettings(
                    f"{run} was trained before its recipe or the grid changed. Remove it, or choose other --runs."
                )
        else:
            run.mkdir(parents=True, exist_ok=True)
            atomic_write(run / SETTINGS, f"{settings}\n".encode())

    def measured(self, entry: Entry) -> RunResult | None:
        """Result of an entry, None where there is none that was made by the same settings. Raises ResultError."""
        result = read_result(self.result(entry))
        return result if result is not None and result.settings_sha256 == self.settings_sha256(entry) else None


def train(study: Study, entry: Entry, processes: Processes) -> None:
    """Train an entry to its end, from wherever it stands. Raises OtherSettings, Locked, or ProcessFailed."""
    study.claim(entry)
    if study.training(entry) is not Training.DONE:
        processes.run(study.run(entry), train_command(study, entry, processes.threads), timed=True)


def train_command(study: Study, entry: Entry, threads: int) -> list[str]:
    """The command that trains an entry from wherever it stands."""
    resume = ["--resume"] if study.training(entry) is Training.STARTED else []
    return [
        sys.executable, "-m", "neurotrails", "train", _readable(study.recipe(entry)), *study.all_overrides(entry),
        f"threads={threads}", "--run", str(study.run(entry)), *resume,
    ]  # fmt: skip


def measure(study: Study, entry: Entry, part: Part, environment: Environment, processes: Processes) -> RunResult:
    """Measure a trained entry on a part and write that into its result file. Raises OtherSettings, Locked, or
    ProcessFailed.

    The report part is measured first; a part that has been measured is not measured again.
    """
    study.claim(entry)
    run, before = study.run(entry), study.measured(entry)
    if before is not None and (part == "report" or before.test is not None):
        return before
    out = run / f"measured-{part}.json"
    command = [sys.executable, str(MEASURE), str(run), "--part", part, "--out", str(out)]
    processes.run(run, [*command, "--threads", str(processes.threads)])
    found = Measured.model_validate_json(out.read_bytes())
    result = RunResult(
        smoke=study.smoke,
        entry=entry,
        recipe=_readable(study.recipe(entry)),
        overrides=entry.overrides,
        settings_sha256=study.settings_sha256(entry),
        environment=environment.model_copy(update={"command": _command(entry, smoke=study.smoke)}),
        training=found.training,
        cost=found.cost,
        report=found.quality if before is None else before.report,
        test=None if before is None else found.quality,
    )
    write_result(study.result(entry), result)
    return result


def for_each(entries: Sequence[Entry], work: Callable[[Entry], str], processes: Processes, jobs: int) -> int:
    """Work on entries in order, `jobs` side by side, and say what came of each; returns how many failed.

    A failure does not stop the others: the next call of the study tries again. An interruption stops them all.
    """
    failed = 0

    def attempt(entry: Entry) -> tuple[Entry, str, bool]:
        try:
            return entry, work(entry), True
        except (OtherSettings, Locked, ProcessFailed) as error:
            return entry, f"{type(error).__name__}: {error}", isinstance(error, Locked)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done, (entry, said, fine) in enumerate(pool.map(attempt, entries), 1):
                print(f"[{done}/{len(entries)}] {entry.name}: {said}", file=sys.stderr, flush=True)
                failed += not fine
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    return failed


def _command(entry: Entry, *, smoke: bool) -> str:
    """The command that makes this one result anywhere."""
    choice = f"--stages {entry.stage} --data {entry.data} --seeds {entry.seed} --methods {entry.variant.method}"
    return f"python benchmarks/accuracy.py {choice}{' --smoke' if smoke else ''}"


def _readable(path: Path) -> str:
    """A path as a user would type it: relative to the repository, where it lies there."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
