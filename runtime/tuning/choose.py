"""The choice: what the measurements of a tuning speak for."""

from collections.abc import Iterable, Sequence

from runtime.errors import EngineError
from runtime.tuning.records import Choice, Speed, Trial


def fastest(trials: Sequence[Trial]) -> Choice:
    """The lowest median latency at the smallest batch size. Raises EngineError where nothing could be measured."""
    finished = list(_finished(trials))
    if not finished:
        reasons = "; ".join(f"{trial.setup}: {trial.failure}" for trial in trials)
        raise EngineError(f"No engine could run it. {reasons}.")
    smallest = min(speed.rows for _, speed in finished)
    trial, speed = min(
        ((trial, speed) for trial, speed in finished if speed.rows == smallest), key=lambda pair: pair[1].p50_seconds
    )
    return Choice(setup=trial.setup, rows=speed.rows)


def best(trials: Sequence[Trial], target_p99_seconds: float | None) -> Choice | None:
    """The most rows per second among all whose p99 is within the target; None if there is no target, or no such."""
    if target_p99_seconds is None:
        return None
    within = [(trial, speed) for trial, speed in _finished(trials) if speed.p99_seconds <= target_p99_seconds]
    if not within:
        return None
    trial, speed = max(within, key=lambda pair: pair[1].rows_per_second)
    return Choice(setup=trial.setup, rows=speed.rows)


def _finished(trials: Iterable[Trial]) -> Iterable[tuple[Trial, Speed]]:
    """What was measured to the end."""
    return ((trial, speed) for trial in trials if trial.failure is None for speed in trial.speeds if speed.finished)
