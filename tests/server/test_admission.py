"""Estimates, admission and the choice of heads, against their definitions and a simulated server."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.costs import CostSurface
from runtime.predictor import Limit
from server.admission import (
    ALMOST,
    HEADROOM,
    MOST_RATIO,
    Backlog,
    Costs,
    Load,
    Policy,
    Refusal,
    admit,
    choose_heads,
    pace,
)

HEADS = 3
SECONDS = st.floats(1e-4, 1.0)


@st.composite
def surfaces(draw: st.DrawFn) -> CostSurface:
    """A surface of any shape that costs more for more rows, as measured ones do but for noise."""
    sizes = tuple(sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=3))))

    def stage() -> tuple[float, ...]:
        return tuple(itertools.accumulate(draw(SECONDS) for _ in sizes))

    return CostSurface(batch_sizes=sizes, trunk=stage(), heads=tuple(stage() for _ in range(HEADS)))


COSTS = st.builds(
    lambda surface, overhead: Costs({0: surface}, most_rows=surface.batch_sizes[-1], overhead_seconds=overhead),
    surfaces(),
    st.floats(0, 0.01),
)


def linear(per_row: float = 1.0, *, tokens: tuple[int, ...] = (0,)) -> Costs:
    """A trunk and three heads that each cost `per_row` for each row, and twice that for the next length of texts."""
    stages = {length: tuple(per_row * 2**index * rows for rows in (1, 2, 4)) for index, length in enumerate(tokens)}
    return Costs(
        {
            length: CostSurface(tokens=length, batch_sizes=(1, 2, 4), trunk=stage, heads=(stage,) * HEADS)
            for length, stage in stages.items()
        },
        most_rows=4,
    )


def backlog(*rows: tuple[int, int | None, int]) -> Backlog:
    found = Backlog()
    for count, heads, tokens in rows:
        found.add(count, heads, tokens)
    return found


@given(COSTS, st.integers(0, 40), st.integers(1, HEADS))
def test_more_work_never_costs_less_and_splits_are_cheapest(costs: Costs, rows: int, heads: int) -> None:
    here = costs.seconds(rows, heads, 0)
    assert costs.seconds(rows + 1, heads, 0) >= here - 1e-12
    if heads < HEADS:
        assert costs.seconds(rows, heads + 1, 0) >= here
    if rows <= costs.most_rows:
        batches = [costs.batch_seconds(size, heads, 0) for size in range(1, costs.most_rows + 1)]
        best = min(
            (sum(batches[size - 1] for size in sizes)
             for count in range(1, rows + 1)
             for sizes in itertools.combinations_with_replacement(range(1, rows + 1), count)
             if sum(sizes) == rows),
            default=0.0,
        )  # fmt: skip
        assert here == pytest.approx(best)


@given(COSTS, st.integers(1, 40), st.integers(1, HEADS))
def test_good_rows_are_the_fewest_that_are_almost_cheapest(costs: Costs, waiting: int, heads: int) -> None:
    chosen = costs.good_rows(waiting, heads, 0)
    rates = {rows: costs.batch_seconds(rows, heads, 0) / rows for rows in range(1, min(waiting, costs.most_rows) + 1)}
    almost = [rows for rows, rate in rates.items() if rate <= ALMOST * min(rates.values())]
    assert chosen == min(almost)


def test_a_batch_that_costs_as_much_as_one_row_is_filled() -> None:
    surface = CostSurface(batch_sizes=(1, 4), trunk=(1.0, 1.0), heads=((1.0, 1.0),))
    costs = Costs({0: surface}, most_rows=4)
    assert [costs.good_rows(waiting, 1, 0) for waiting in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]
    assert [linear().good_rows(waiting, 1, 0) for waiting in (1, 2, 3, 4, 9)] == [1, 1, 1, 1, 1]


@given(COSTS, st.lists(st.tuples(st.integers(1, 4), st.integers(1, HEADS), st.floats(0, 100)), max_size=30))
def test_estimates_follow_what_batches_take(costs: Costs, batches: list[tuple[int, int, float]]) -> None:
    quiet = costs.seconds(3, 2, 0)
    for rows, heads, seconds in batches:
        costs.measured(min(rows, costs.most_rows), heads, 0, seconds)
        assert 1 / MOST_RATIO - 1e-9 <= costs.ratio <= MOST_RATIO + 1e-9
        assert costs.seconds(3, 2, 0) == pytest.approx(costs.ratio * quiet)


def test_a_slow_machine_is_noticed_and_a_hiccup_forgotten() -> None:
    costs = linear()
    for _ in range(100):
        costs.measured(2, 3, 0, 3 * 8.0)
    assert costs.ratio == pytest.approx(3, rel=1e-3)
    assert costs.seconds(1, 3, 0) == pytest.approx(12, rel=1e-3)
    costs.measured(1, 1, 0, 1e9)
    assert 3 < costs.ratio < MOST_RATIO / 2
    for _ in range(100):
        costs.measured(2, 3, 0, 8.0)
    assert costs.ratio == pytest.approx(1, rel=1e-2)


def test_texts_are_priced_by_their_length() -> None:
    costs = linear(tokens=(16, 64))
    assert costs.longest == 64
    assert costs.seconds(1, 1, 64) == 2 * costs.seconds(1, 1, 16) == 4.0
    assert backlog((3, None, 16), (1, None, 64), (2, 3, 16)).seconds(costs, 1) == 3 * 2 + 4 + 2 * 4


def test_a_backlog_forgets_what_is_removed() -> None:
    costs = linear()
    rows = backlog((3, None, 0), (2, 2, 0))
    rows.remove(2, 2, 0)
    rows.remove(1, None, 0)
    assert (rows.rows, rows.seconds(costs, 1)) == (2, 4.0)
    rows.remove(2, None, 0)
    assert (rows.rows, rows.seconds(costs, 1)) == (0, 0.0)


POLICIES = st.builds(
    Policy,
    floor=st.integers(1, HEADS),
    target_seconds=st.floats(0.01, 100),
    most_waiting=st.integers(1, 50),
    workers=st.integers(1, 3),
)
PROMISES = st.none() | st.integers(1, HEADS)


@given(
    COSTS, POLICIES, st.lists(st.tuples(st.integers(1, 9), PROMISES), max_size=5),
    st.sampled_from([(0, 0.0), (1, 0.5), (8, 3.0)]), st.integers(1, 20), PROMISES, st.floats(0.001, 100),
    st.floats(1, 10), st.integers(1, 9),
)  # fmt: skip
def test_admission_is_monotone_and_says_when_there_is_room(
    costs: Costs, policy: Policy, waiting: list[tuple[int, int | None]], running: tuple[int, float], rows: int,
    heads: int | None, seconds_left: float, more: float, extra: int,
) -> None:  # fmt: skip
    line = backlog(*((count, promised, 0) for count, promised in waiting))

    def decide(left: float) -> Refusal | None:
        return admit(costs, Load(line, *running), policy, rows=rows, heads=heads, tokens=0, seconds_left=left)

    refusal = decide(seconds_left)
    if not waiting and not running[0]:
        assert refusal is None
        return
    voting = heads or policy.floor
    batch = costs.batch_seconds(costs.good_rows(line.rows + rows, voting, 0), voting, 0)
    own = max(costs.seconds(rows, voting, 0), batch)
    wait = (running[1] + line.seconds(costs, policy.floor)) / policy.workers
    if running[0] + line.rows + rows > policy.most_waiting:
        assert refusal is not None
        assert refusal.reason == "queue_full"
        assert 0 < refusal.retry_seconds <= wait + 1e-9
    elif wait + own > HEADROOM * seconds_left:
        assert refusal is not None
        assert refusal.reason == "too_slow"
        assert refusal.seconds == pytest.approx(wait + own)
        assert refusal.seconds - refusal.retry_seconds == pytest.approx(HEADROOM * seconds_left)
    else:
        assert refusal is None
        assert decide(seconds_left * more) is None
    line.add(extra, heads, 0)
    if refusal is not None:
        assert decide(seconds_left) is not None


@given(COSTS, POLICIES, st.lists(st.tuples(st.integers(1, 9), PROMISES), min_size=1, max_size=5), st.floats(0.0001, 10))
def test_heads_are_the_most_that_are_done_in_time(
    costs: Costs, policy: Policy, waiting: list[tuple[int, int | None]], seconds_per_row: float
) -> None:
    line = backlog(*((count, promised, 0) for count, promised in waiting))
    limit = choose_heads(costs, line, policy, seconds_per_row=seconds_per_row)

    def slow(heads: int) -> bool:
        return line.seconds(costs, heads) / policy.workers > policy.target_seconds

    def late(heads: int) -> bool:
        return line.seconds(costs, heads) / policy.workers > seconds_per_row * line.rows

    fitting = [heads for heads in range(1, HEADS + 1) if not slow(heads) and not late(heads)]
    expected = max([policy.floor, *fitting])
    assert (HEADS if limit is None else limit.heads) == expected
    if limit is not None:
        assert limit.heads < HEADS
        assert limit.reason == ("load" if slow(limit.heads + 1) else "deadline")


def test_heads_are_shed_one_by_one_as_rows_gather() -> None:
    costs, policy = linear(), Policy(floor=1, target_seconds=24.0, most_waiting=99)

    def heads(rows: int, promised: int = 0) -> Limit | None:
        line = backlog((rows, None, 0)) if rows else Backlog()
        if promised:
            line.add(promised, 3, 0)
        return choose_heads(costs, line, policy, seconds_per_row=100.0)

    assert [heads(rows) for rows in (6, 8, 12, 50)] == [None, Limit(2, "load"), Limit(1, "load"), Limit(1, "load")]
    assert heads(4, promised=2) is None
    assert heads(4, promised=3) == Limit(2, "load")
    assert choose_heads(costs, backlog((4, None, 0)), policy, seconds_per_row=3.5) == Limit(2, "deadline")
    unshed = Policy(floor=3, target_seconds=0.1, most_waiting=99)
    assert choose_heads(costs, backlog((50, None, 0)), unshed, seconds_per_row=0.1) is None


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.integers(1, 5), st.floats(0.001, 10))
def test_at_the_pace_every_row_meets_its_deadline(seconds_left: list[float], batch: int, slower: float) -> None:
    at_pace = pace(seconds_left, batch)
    rows = len(seconds_left)
    for place, left in enumerate(seconds_left):
        last_of_batch = min(rows, (place // batch + 1) * batch)
        assert last_of_batch * at_pace <= left
    assume(slower > 1 / HEADROOM)
    assert any((place + batch) * at_pace * slower > left for place, left in enumerate(seconds_left))


@given(
    COSTS, st.integers(1, HEADS), st.integers(0, 8), st.integers(0, 30), st.integers(1, 8), st.floats(0.01, 50),
)  # fmt: skip
def test_who_is_admitted_is_answered_in_time(
    costs: Costs, floor: int, running: int, waiting: int, rows: int, timeout: float
) -> None:
    """First come, first served, at the floor, what admission promised is kept, but for the odd size of a last batch."""
    policy = Policy(floor=floor, target_seconds=1.0, most_waiting=1000)
    running = min(running, costs.most_rows)
    now = costs.batch_seconds(running, floor, 0) if running else 0.0
    load = Load(backlog((waiting, None, 0)) if waiting else Backlog(), running, now)
    refusal = admit(costs, load, policy, rows=rows, heads=None, tokens=0, seconds_left=timeout)
    line = waiting + rows
    while line:
        batch = costs.good_rows(line, floor, 0)
        now += costs.batch_seconds(batch, floor, 0)
        line -= batch
    last = costs.batch_seconds(costs.most_rows, floor, 0)
    if load.rows and refusal is None:
        assert now <= HEADROOM * timeout + last
    if refusal is not None:
        assert now >= HEADROOM * timeout - last
