"""Runs entries of the study: trains what is not trained, goes on with what was interrupted, measures what is not
measured.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from accuracy_grid import Entry
from accuracy_processes import Locked, Processes, ProcessFailed
from environment import REPOSITORY


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
    overrides: tuple[str, ...] = ()
    """Changes to every recipe, ahead of those of an entry."""
    smoke: bool = False

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
        return (*self.overrides, *entry.overrides)

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


def train(study: Study, entry: Entry, processes: Processes) -> None:
    """Train an entry to its end, from wherever it stands. Raises Locked, or ProcessFailed."""
    state = study.training(entry)
    if state is Training.DONE:
        return
    command = [
        sys.executable, "-m", "neurotrails", "train", _readable(study.recipe(entry)), *study.all_overrides(entry),
        f"threads={processes.threads}", "--run", str(study.run(entry)),
    ]  # fmt: skip
    processes.run(study.run(entry), [*command, *(["--resume"] if state is Training.STARTED else [])], timed=True)


def for_each(entries: Sequence[Entry], work: Callable[[Entry], str], processes: Processes, jobs: int) -> int:
    """Work on entries in order, `jobs` side by side, and say what came of each; returns how many failed.

    A failure does not stop the others: the next call of the study tries again. An interruption stops them all.
    """
    failed = 0

    def attempt(entry: Entry) -> tuple[Entry, str, bool]:
        try:
            return entry, work(entry), True
        except (Locked, ProcessFailed) as error:
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


def _readable(path: Path) -> str:
    """A path as a user would type it: relative to the repository, where it lies there."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
