"""What may be promised: estimates of time, admission, and the number of heads that the load allows. Pure.

No clock, no event loop and no randomness lives here: times come in as seconds that are left, and the caller decides.
Estimates start from the measured surfaces of `runtime.costs` and follow what batches really take.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.costs import CostSurface
from runtime.predictor import Limit

ALMOST = 1.05
"""The smallest batch is taken whose cost per row is within this factor of the best one's: its rows wait less."""
MEMORY = 0.9
"""Weight of all batches before the last one in the ratio of measured to estimated time, per batch."""
MOST_RATIO = 16.0
"""Bound of that ratio, both ways, also for a single batch: one pause of the machine must not close the door."""
MANY_BATCHES = 8
"""Rows in more than so many of the largest batches are priced by what so many cost."""
HEADROOM = 0.9
"""Part of the time left that may be promised: estimates are not exact, and an answer after its deadline is wasted."""


class Costs:
    """Estimated seconds of computing: measured surfaces, times what batches take now relative to them.

    `surfaces` holds one surface for each padded length of texts, or one with key 0. A batch also costs
    `overhead_seconds` outside the engine, and has at most `most_rows`.
    """

    def __init__(self, surfaces: Mapping[int, CostSurface], *, most_rows: int, overhead_seconds: float = 0.0) -> None:
        self.heads_total = len(next(iter(surfaces.values())).heads)
        self.longest = max(surfaces)
        self.most_rows = most_rows
        self._estimated = self._measured = 0.0
        self._batch = {
            (tokens, heads): [surface.seconds(rows, heads) + overhead_seconds for rows in range(most_rows + 1)]
            for tokens, surface in surfaces.items()
            for heads in range(1, self.heads_total + 1)
        }
        self._split = {key: _lowest_sums(batch) for key, batch in self._batch.items()}

    @property
    def ratio(self) -> float:
        """Measured seconds of the last batches by those of the surfaces; 1 before the first batch."""
        return self._measured / self._estimated if self._estimated else 1.0

    def batch_seconds(self, rows: int, heads: int, tokens: int) -> float:
        """Seconds of one batch of 1 to `most_rows` rows with `heads` heads."""
        return self.ratio * self._batch[tokens, heads][rows]

    def seconds(self, rows: int, heads: int, tokens: int) -> float:
        """Seconds of any number of rows, one batch after another. Never falls when rows or heads are added."""
        split = self._split[tokens, heads]
        whole, rest = divmod(rows, len(split) - 1)
        return self.ratio * (whole * split[-1] + split[rest])

    def good_rows(self, waiting: int, heads: int, tokens: int) -> int:
        """How many of the `waiting` rows to compute together: the fewest that are almost cheapest per row."""
        batch = self._batch[tokens, heads]
        rates = [batch[rows] / rows for rows in range(1, min(waiting, self.most_rows) + 1)]
        best = ALMOST * min(rates)
        return next(rows for rows, rate in enumerate(rates, 1) if rate <= best)

    def measured(self, rows: int, heads: int, tokens: int, seconds: float) -> None:
        """Learn that such a batch took `seconds`, so that a machine that became slow is not promised too much."""
        estimated = self._batch[tokens, heads][rows]
        if estimated <= 0:
            return
        within = min(max(seconds, estimated / MOST_RATIO), estimated * MOST_RATIO)
        self._estimated = MEMORY * self._estimated + estimated
        self._measured = MEMORY * self._measured + within


def _lowest_sums(batch: list[float]) -> list[float]:
    """Cost of 0, 1, ... rows, split into batches at the lowest sum, from the cost of one batch of 0, 1, ... rows.

    For so many rows that an odd last batch no longer counts for much.
    """
    most = len(batch) - 1
    lowest = [0.0]
    for rows in range(1, MANY_BATCHES * most + 1):
        lowest.append(min(batch[size] + lowest[rows - size] for size in range(1, min(rows, most) + 1)))
    return lowest


class Backlog:
    """Counts rows by what they cost: by padded length, and by the number of heads they were promised (None: none)."""

    def __init__(self) -> None:
        self.rows = 0
        self._counts: Counter[tuple[int, int | None]] = Counter()

    def add(self, rows: int, heads: int | None, tokens: int) -> None:
        """Count `rows` more."""
        self.rows += rows
        self._counts[tokens, heads] += rows

    def remove(self, rows: int, heads: int | None, tokens: int) -> None:
        """Count `rows` fewer, which were counted alike."""
        self.rows -= rows
        self._counts[tokens, heads] -= rows
        if not self._counts[tokens, heads]:
            del self._counts[tokens, heads]

    def seconds(self, costs: Costs, heads: int) -> float:
        """Seconds of computing all of them with one worker, with `heads` heads where no number was promised."""
        return sum(costs.seconds(rows, promised or heads, tokens) for (tokens, promised), rows in self._counts.items())


@dataclass(frozen=True)
class Refusal:
    """Why rows are not admitted, and the seconds after which they probably would be."""

    reason: Literal["queue_full", "too_slow"]
    seconds: float
    """Estimated time until all rows, those of the request too, are computed."""
    retry_seconds: float


@dataclass(frozen=True)
class Policy:
    """What the operator chose: how deep to shed, when, and how much may wait."""

    floor: int
    """Fewest heads under load, of all: the number of heads for no shedding."""
    target_seconds: float
    """Time within which the waiting rows should be done; heads are shed for it, no request is refused for it."""
    most_waiting: int
    """Most rows admitted and not finished."""
    workers: int = 1
    """Batches that are computed at the same time."""


@dataclass(frozen=True)
class Load:
    """What was admitted before: rows that wait, and batches that run, with what those cost as they are."""

    waiting: Backlog
    running_rows: int = 0
    running_seconds: float = 0.0

    @property
    def rows(self) -> int:
        """All rows."""
        return self.waiting.rows + self.running_rows

    def seconds(self, costs: Costs, policy: Policy) -> float:
        """Time until all of it is computed, at the floor. Batches that run count as if they had just begun."""
        return (self.running_seconds + self.waiting.seconds(costs, policy.floor)) / policy.workers


def admit(
    costs: Costs,
    load: Load,
    policy: Policy,
    *,
    rows: int,
    heads: int | None,
    tokens: int,
    seconds_left: float,
) -> Refusal | None:
    """Decide on `rows` more: None admits them, if all can be done in `seconds_left` with as few heads as allowed.

    A row is done when its batch is, which rows that come later may fill up. Where there is no load, all are admitted:
    what is estimated could be wrong, and only computing shows by how much.
    """
    if not load.rows:
        return None
    voting = heads or policy.floor
    batch = costs.good_rows(load.waiting.rows + rows, voting, tokens)
    own = max(costs.seconds(rows, voting, tokens), costs.batch_seconds(batch, voting, tokens))
    before = load.seconds(costs, policy)
    total = before + own
    excess = load.rows + rows - policy.most_waiting
    if excess > 0:
        return Refusal("queue_full", total, min(1.0, excess / load.rows) * before)
    if total > HEADROOM * seconds_left:
        return Refusal("too_slow", total, total - HEADROOM * seconds_left)
    return None


def choose_heads(costs: Costs, waiting: Backlog, policy: Policy, *, seconds_per_row: float) -> Limit | None:
    """Return the largest number of heads with which the waiting rows are done in time; None: all heads.

    In time means: all within the target, and each before its deadline. `seconds_per_row` is the time that the rows may
    take on average if all are to meet their deadlines (see `pace`). It depends on nothing but what waits now, so it
    neither lags behind the load nor swings. Heads that were promised are not touched, and the floor always is allowed.
    """
    limit: Limit | None = None
    for heads in range(costs.heads_total, policy.floor, -1):
        drain = waiting.seconds(costs, heads) / policy.workers
        if drain > policy.target_seconds:
            limit = Limit(heads - 1, "load")
        elif drain > seconds_per_row * waiting.rows:
            limit = Limit(heads - 1, "deadline")
        else:
            break
    return limit


def pace(seconds_left: list[float], batch_rows: int) -> float:
    """Seconds per row at which rows in line meet all their deadlines; `seconds_left` is what each has, first to last.

    A row is done with the last one of its batch: in the worst case `batch_rows - 1` rows later.
    """
    return min(HEADROOM * left / (place + batch_rows) for place, left in enumerate(seconds_left))
