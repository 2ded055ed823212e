"""The order of measuring: every subject once a round, in fresh order, panels alternating by their cost."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from rounds import Panel, Subject, run_rounds, subjects_of


class Bench:
    """A clock that only measuring moves, and a log of what was measured."""

    def __init__(self, seconds: Callable[[Subject], float]) -> None:
        self.now = 0.0
        self.log: list[Subject] = []
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def measure(self, subject: Subject) -> list[float]:
        self.log.append(subject)
        self.now += self._seconds(subject)
        return [self._seconds(subject)]


def panel(name: str, batch: int = 1) -> Panel[Subject]:
    subjects = [subject for engine in ("a", "b") for subject in subjects_of(name, engine, batch, 3)]
    return Panel(name, tuple(subjects))


def run(bench: Bench, panels: list[Panel[Subject]], *, budget: float, at_least: int = 1, seed: int = 0) -> None:
    run_rounds(
        panels, bench.measure, at_least=at_least, enough=lambda: bench.now >= budget,
        generator=np.random.default_rng(seed), clock=bench.clock,
    )  # fmt: skip


def test_subjects_are_all_heads_the_single_network_and_the_ensemble() -> None:
    found = subjects_of("net", "engine", 16, 3)
    assert [subject.label for subject in found] == [
        "sparse, 1 of 3 heads", "sparse, 2 of 3 heads", "sparse, 3 of 3 heads", "dense, single", "dense, ensemble of 3",
    ]  # fmt: skip
    assert [subject.is_baseline for subject in found] == [False, False, False, False, True]


def test_for_one_head_the_single_network_is_the_ensemble() -> None:
    assert [(subject.kind, subject.is_baseline) for subject in subjects_of("net", "engine", 1, 1)] == [
        ("sparse", False), ("dense", True),
    ]  # fmt: skip


def test_every_round_visits_every_subject_once_in_fresh_order() -> None:
    bench, only = Bench(lambda _: 1.0), panel("net")
    run(bench, [only], budget=200.0)
    size = len(only.subjects)
    rounds = [tuple(bench.log[start : start + size]) for start in range(0, len(bench.log), size)]
    assert only.rounds == len(rounds) == 20
    assert all(Counter(order) == Counter(only.subjects) for order in rounds)
    assert len(set(rounds)) == len(rounds)
    first = Counter(order[0].engine for order in rounds)
    assert set(first) == {"a", "b"}
    assert all(len(calls) == 20 for calls in only.calls.values())


def test_the_order_follows_from_the_seed() -> None:
    logs = []
    for seed in (5, 5, 6):
        bench = Bench(lambda _: 1.0)
        run(bench, [panel("net")], budget=50.0, seed=seed)
        logs.append(bench.log)
    assert logs[0] == logs[1] != logs[2]


def test_at_least_so_many_rounds_although_the_time_is_up() -> None:
    panels = [panel("one"), panel("two", 16)]
    run(Bench(lambda _: 1.0), panels, budget=0.0, at_least=4)
    assert [each.rounds for each in panels] == [4, 4]


def test_rounds_alternate_and_go_with_one_through_the_root_of_their_cost() -> None:
    panels = [panel("cheap"), panel("dear")]
    bench = Bench(lambda subject: 16.0 if subject.network == "dear" else 1.0)
    run(bench, panels, budget=60_000.0)
    cheap, dear = panels
    assert 3.9 <= cheap.rounds / dear.rounds <= 4.1
    networks = [subject.network for subject in bench.log[:: len(cheap.subjects)]]
    longest = max(len(stretch) for stretch in "".join(name[0] for name in networks).replace("d", " ").split())
    assert longest <= 6
