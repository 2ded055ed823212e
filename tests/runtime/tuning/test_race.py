"""Races on made-up figures: the rules, without a clock."""

from itertools import count

import pytest

from runtime.errors import EngineError
from runtime.tuning.contender import Visit
from runtime.tuning.race import FIRST_HALVING, Race, run_races
from runtime.tuning.records import Setup
from tests.runtime.tuning.conftest import setup

A, B, C, D, E = (setup(name) for name in ("a", "b", "c", "d", "e"))


def raced(figures: dict[Setup, tuple[float, float]], target: float | None = None) -> Race:
    """A race after three rounds; figures are seconds of a call and rows per second."""
    race = Race(4, list(figures), target)
    for _ in range(FIRST_HALVING):
        for one, (seconds, rate) in figures.items():
            race.add(one, Visit((seconds, seconds), rate))
    return race


def test_without_a_target_the_quicker_half_stays() -> None:
    race = raced({A: (0.5, 900), B: (0.1, 10), C: (0.2, 20), D: (0.4, 40), E: (0.3, 1)})
    race.halve()
    assert race.running == [B, C, E]
    race.halve()
    assert race.running == [B, C]
    race.halve()
    assert race.running == [B, C], "the winner is seen beside the runner-up"


def test_with_a_target_throughput_counts_and_the_quickest_stays() -> None:
    race = raced({A: (0.5, 900), B: (0.1, 10), C: (0.2, 30), D: (0.25, 40)}, target=0.3)
    race.halve()
    assert race.running == [B, C, D], "A misses the target, and B has the fewest rows per second but is the quickest"


def test_rounds_are_paired() -> None:
    """In two of three rounds A beats B, although its median over all is the longer one: the machine slowed down."""
    race = Race(1, [A, B, C])
    for a, b in ((1.0, 1.1), (8.0, 9.0), (10.0, 7.0)):
        for one, seconds in ((A, a), (B, b), (C, 20.0)):
            race.add(one, Visit((seconds,), 1 / seconds))
    scores = race._scores()
    assert scores[A] > scores[B] > scores[C]


def test_speeds_say_what_was_measured() -> None:
    race = Race(4, [A])
    for start in range(4):
        race.add(A, Visit(tuple((start * 50 + index + 1) / 1000 for index in range(50)), 100.0 + start))
    found = race.speeds()[A]
    assert (found.rows, found.rounds, found.calls, found.finished) == (4, 4, 200, True)
    assert found.p50_seconds == pytest.approx(0.1005)
    assert found.p99_seconds == pytest.approx(0.199), "2 of 200 calls may be slower"
    assert found.rows_per_second == pytest.approx(101.5)
    short = raced({A: (0.1, 1.0)})
    short.add(A, Visit((0.9,), 1.0))
    assert short.speeds()[A].p99_seconds == 0.9, "below 100 calls it is the slowest"


def test_losers_are_let_go_once_they_have_left_every_race() -> None:
    seconds = {(A, 1): 1.0, (B, 1): 2.0, (C, 1): 3.0, (D, 1): 4.0, (A, 4): 9.0, (B, 4): 2.0, (C, 4): 3.0, (D, 4): 4.0}
    visited: list[tuple[Setup, int]] = []
    gone: list[Setup] = []

    def visit(one: Setup, rows: int) -> Visit:
        assert one not in gone
        visited.append((one, rows))
        return Visit((seconds[one, rows],), rows / seconds[one, rows])

    races = [Race(rows, [A, B, C, D]) for rows in (1, 4)]
    ticks = count()
    failures = run_races(
        races, visit, budget_seconds=6, let_go=gone.append, after_visit=lambda *_: None, clock=lambda: next(ticks) / 10
    )
    assert not failures
    assert gone == [D]
    assert [race.running for race in races] == [[A, B], [B, C]]
    for start in range(0, FIRST_HALVING * 8, 8):
        assert set(visited[start : start + 8]) == set(seconds), "a round visits everything once"
    assert visited[:8] != visited[8:16], "the order is not a fresh one"
    assert len(visited) > FIRST_HALVING * 8
    assert all(speeds.finished == (one in race.running) for race in races for one, speeds in race.speeds().items())


def test_a_failure_ends_one_setup_and_no_other() -> None:
    gone: list[Setup] = []

    def visit(one: Setup, rows: int) -> Visit:
        if one == B and rows == 4:
            raise EngineError("its process ended")
        return Visit((1.0,), rows)

    races = [Race(rows, [A, B, C]) for rows in (1, 4)]
    failures = run_races(races, visit, budget_seconds=0, let_go=gone.append, after_visit=lambda *_: None)
    assert failures == {B: "with 4 rows: its process ended"}
    assert gone == [B]
    assert {one for race in races for one in race.running} == {A, C}
    assert all(len(race.visits[A]) == FIRST_HALVING for race in races), "too few rounds, whatever the budget"


def test_when_all_have_failed_the_race_is_over() -> None:
    def visit(one: Setup, rows: int) -> Visit:
        raise EngineError(f"no {one.engine} {rows}")

    failures = run_races(
        [Race(1, [A, B])], visit, budget_seconds=3600, let_go=lambda _: None, after_visit=lambda *_: None
    )
    assert set(failures) == {A, B}
