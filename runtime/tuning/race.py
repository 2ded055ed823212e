"""Which setups are worth measuring further: successive halving over interleaved, paired rounds.

At each batch size the setups race against each other. A round visits every setup that is still running at every batch
size once, in a fresh order, so that all see the same state of the machine. After 3, 6, 12, ... rounds the slower half
of each race leaves it, but never the one with the lowest median latency. What leaves every race is let go.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.errors import EngineError
from runtime.tuning.contender import Visit
from runtime.tuning.records import Setup, Speed

FIRST_HALVING = 3
"""Rounds before the first setups leave, and the least number of rounds whatever the budget."""
ALWAYS_KEPT = 2
"""Setups that stay in a race to its end, so that the winner is seen beside the runner-up."""


@dataclass
class Race:
    """The setups at one batch size."""

    rows: int
    running: list[Setup]
    target_seconds: float | None = None
    visits: dict[Setup, list[Visit]] = field(default_factory=dict)

    def add(self, setup: Setup, visit: Visit) -> None:
        """Note a visit."""
        self.visits.setdefault(setup, []).append(visit)

    def remove(self, setup: Setup) -> None:
        """Take out a setup that failed."""
        if setup in self.running:
            self.running.remove(setup)

    def halve(self) -> None:
        """Let the worse half go: those whose median latency misses the target first, then those with fewer rows per
        second (without a target: with longer calls) than the others in the same rounds.
        """
        if len(self.running) <= ALWAYS_KEPT:
            return
        scores = self._scores()
        ranked = sorted(self.running, key=lambda setup: (self._misses_target(setup), -scores[setup]))
        staying = ranked[: max(ALWAYS_KEPT, math.ceil(len(ranked) / 2))]
        quickest = min(self.running, key=self._median_seconds)
        self.running = [setup for setup in self.running if setup in staying or setup == quickest]

    def speeds(self) -> dict[Setup, Speed]:
        """What was measured of every setup that was ever visited."""
        return {setup: self._speed(setup) for setup in self.visits}

    def _scores(self) -> dict[Setup, float]:
        """How much better than the others a setup did in the same rounds, as a logarithm: the median of the rounds for
        each of the others, and the mean of these.
        """
        if self.target_seconds is None:
            raw = [[-math.log(np.median(visit.seconds)) for visit in self.visits[setup]] for setup in self.running]
        else:
            raw = [[math.log(visit.rows_per_second) for visit in self.visits[setup]] for setup in self.running]
        logarithms = np.array(raw)  # [setups, rounds]
        better = np.median(logarithms[:, None] - logarithms, axis=2)  # [setups, others]
        return dict(zip(self.running, better.mean(axis=1).tolist(), strict=True))

    def _misses_target(self, setup: Setup) -> bool:
        return self.target_seconds is not None and self._median_seconds(setup) > self.target_seconds

    def _median_seconds(self, setup: Setup) -> float:
        return float(np.median([seconds for visit in self.visits[setup] for seconds in visit.seconds]))

    def _speed(self, setup: Setup) -> Speed:
        visits = self.visits[setup]
        seconds = [seconds for visit in visits for seconds in visit.seconds]
        return Speed(
            rows=self.rows,
            p50_seconds=float(np.median(seconds)),
            p99_seconds=float(np.quantile(seconds, 0.99, method="higher")),
            rows_per_second=float(np.median([visit.rows_per_second for visit in visits])),
            rounds=len(visits),
            calls=len(seconds),
            finished=setup in self.running,
        )


def run_races(
    races: Sequence[Race],
    visit: Callable[[Setup, int], Visit],
    *,
    budget_seconds: float,
    let_go: Callable[[Setup], None],
    after_visit: Callable[[int, float], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[Setup, str]:
    """Run rounds until the budget is spent, but at least `FIRST_HALVING`; returns why setups failed.

    `let_go` is called with each setup that has left every race; `after_visit` with the number of setups that are still
    running, and the fraction of the budget that is spent. A round that has begun is finished.
    """
    failures: dict[Setup, str] = {}
    generator = np.random.default_rng(0)
    started = clock()
    rounds, next_halving = 0, FIRST_HALVING
    while rounds < FIRST_HALVING or clock() - started < budget_seconds:
        cells = [(race, setup) for race in races for setup in race.running]
        if not cells:
            break
        for index in generator.permutation(len(cells)):
            race, setup = cells[index]
            if setup in failures:
                continue
            try:
                race.add(setup, visit(setup, race.rows))
            except EngineError as error:
                failures[setup] = f"with {race.rows} rows: {error}"
                for each in races:
                    each.remove(setup)
                let_go(setup)
            after_visit(len(_running(races)), min(1.0, (clock() - started) / max(budget_seconds, 1e-9)))
        rounds += 1
        if rounds == next_halving:
            next_halving *= 2
            before = _running(races)
            for race in races:
                race.halve()
            for setup in before - _running(races):
                let_go(setup)
    return failures


def _running(races: Iterable[Race]) -> set[Setup]:
    return {setup for race in races for setup in race.running}
