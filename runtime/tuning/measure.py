"""Measures setups: loads each in its own process, lets them race, and prices the stages of those that were chosen."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.artifact import Artifact
from runtime.costs import CostSurface
from runtime.errors import EngineError
from runtime.manifest import TextPreprocessing
from runtime.tuning.contender import Contender, Loaded
from runtime.tuning.progress import Progress
from runtime.tuning.race import Race, run_races
from runtime.tuning.records import Setup, Trial

COSTS_SHARE = 0.1
"""Share of the budget that goes to the costs of the chosen setups."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    artifact: Artifact
    setups: Sequence[Setup]
    batch_sizes: tuple[int, ...]
    target_p99_seconds: float | None
    budget_seconds: float
    cores: int
    """Setups that load at a time."""

    @property
    def tokens(self) -> int:
        """Length of the texts to time: the greatest; 0 unless the artifact reads texts."""
        preprocessing = self.artifact.manifest.preprocessing
        return preprocessing.lengths[-1] if isinstance(preprocessing, TextPreprocessing) else 0


def measure(plan: Plan, progress: Progress) -> list[Trial]:
    """Load all setups and let them race at every batch size; one trial for each setup, in their order.

    A setup that fails is no error: its trial says why. All processes are gone in the end.
    """
    contenders: dict[Setup, Contender] = {}
    try:
        loaded = _load(plan, contenders, progress)
        ready = [setup for setup, found in loaded.items() if isinstance(found, Loaded)]
        for setup in set(contenders) - set(ready):
            contenders[setup].kill()
        races = [Race(rows, list(ready), plan.target_p99_seconds) for rows in plan.batch_sizes]
        failures = run_races(
            races,
            lambda setup, rows: contenders[setup].visit(rows),
            budget_seconds=plan.budget_seconds * (1 - COSTS_SHARE),
            let_go=lambda setup: contenders[setup].kill(),
            after_visit=lambda running, done: progress.show("measuring", done, f"{running} of {len(ready)} running"),
        )
    finally:
        for contender in contenders.values():
            contender.kill()
    return [_trial(setup, found, races, failures) for setup, found in loaded.items()]


def price(plan: Plan, setup: Setup, progress: Progress, *, budget_seconds: float) -> tuple[CostSurface, ...]:
    """Costs of the stages of a setup, for each token length, in a fresh process that holds all of them.

    Raises EngineError.
    """
    progress.show("pricing trunk and heads", 0.0, str(setup))
    contender = Contender(setup, plan.artifact.folder, plan.batch_sizes)
    try:
        contender.load(None)
        return contender.costs(budget_seconds)
    finally:
        contender.kill()


def _load(plan: Plan, contenders: dict[Setup, Contender], progress: Progress) -> dict[Setup, Loaded | EngineError]:
    lengths = (plan.tokens,) if plan.tokens else None
    loaded: dict[Setup, Loaded | EngineError] = {}

    def load(setup: Setup) -> Loaded | EngineError:
        contenders[setup] = Contender(setup, plan.artifact.folder, plan.batch_sizes)
        try:
            return contenders[setup].load(lengths)
        except EngineError as error:
            return error

    with ThreadPoolExecutor(plan.cores) as pool:
        for setup, found in zip(plan.setups, pool.map(load, plan.setups), strict=True):
            loaded[setup] = found
            progress.show("loading", len(loaded) / len(plan.setups), str(setup))
    return loaded


def _trial(setup: Setup, found: Loaded | EngineError, races: Sequence[Race], failures: dict[Setup, str]) -> Trial:
    if isinstance(found, EngineError):
        return Trial(setup=setup, failure=str(found))
    return Trial(
        setup=setup,
        version=found.version,
        agreement=found.agreement,
        speeds=tuple(race.speeds()[setup] for race in races if setup in race.visits),
        failure=failures.get(setup),
    )
