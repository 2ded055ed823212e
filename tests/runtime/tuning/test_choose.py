import pytest

from runtime.errors import EngineError
from runtime.tuning.choose import best, fastest
from runtime.tuning.records import Choice, Trial
from tests.runtime.tuning.conftest import setup, speed

SLOW, QUICK, WIDE = (setup(name) for name in ("slow", "quick", "wide"))
TRIALS = [
    Trial(setup=SLOW, speeds=(speed(1, 0.030, 0.050, 30.0), speed(16, 0.3, 0.5, 60.0))),
    Trial(setup=QUICK, speeds=(speed(1, 0.001, 0.002, 900.0), speed(16, 0.015, 0.018, 1000.0))),
    Trial(setup=WIDE, speeds=(speed(1, 0.002, 0.003, 500.0), speed(16, 0.010, 0.040, 1600.0))),
]


def test_the_lowest_latency_at_the_smallest_batch() -> None:
    assert fastest(TRIALS) == Choice(setup=QUICK, rows=1)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.05, Choice(setup=WIDE, rows=16)),
        (0.02, Choice(setup=QUICK, rows=16)),
        (0.004, Choice(setup=QUICK, rows=1)),
        (0.001, None),
        (None, None),
    ],
)
def test_the_most_rows_per_second_within_the_target(target: float | None, expected: Choice | None) -> None:
    assert best(TRIALS, target) == expected


def test_what_lost_early_or_failed_is_not_chosen() -> None:
    early = Trial(setup=WIDE, speeds=(speed(1, 1e-6, 1e-6, 1e9, finished=False),))
    failed = Trial(setup=SLOW, speeds=(speed(1, 1e-6, 1e-6, 1e9),), failure="it crashed")
    assert fastest([early, failed, TRIALS[1]]) == Choice(setup=QUICK, rows=1)
    assert best([early, failed, TRIALS[1]], 1.0) == Choice(setup=QUICK, rows=16)


def test_when_nothing_ran_the_reasons_are_given() -> None:
    with pytest.raises(EngineError, match=r"No engine could run it\. slow fp32, 1 core: it crashed\."):
        fastest([Trial(setup=SLOW, failure="it crashed")])
