"""Medians, bootstrap intervals and paired ratios: exact where exact is possible, properties elsewhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intervals import estimate, paired_ratio, round_values

latencies = st.floats(min_value=1e-6, max_value=1e3)


@given(st.lists(latencies, min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_interval_holds_the_median_and_stays_in_range(values: list[float]) -> None:
    found = estimate(values)
    assert found.median == np.median(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


@given(st.lists(latencies, min_size=1, max_size=20), st.integers(-8, 8))
@settings(max_examples=40, deadline=None)
def test_interval_scales_with_the_unit(values: list[float], exponent: int) -> None:
    unit = 2.0**exponent  # exact in binary
    one, other = estimate(values), estimate([value * unit for value in values])
    assert (other.median, other.low, other.high) == (one.median * unit, one.low * unit, one.high * unit)


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        found = estimate(generator.lognormal(size=25), seed=seed)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.99


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(2).lognormal(size=9)
    assert estimate(values, seed=3) == estimate(values, seed=3)


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_a_round_counts_once_however_many_calls_it_has() -> None:
    assert round_values([[1.0, 2.0, 9.0], [4.0], [5.0, 7.0]]).tolist() == [2.0, 4.0, 6.0]


@given(st.lists(st.tuples(latencies, st.floats(0.01, 100)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_what_slows_a_whole_round_cancels(rounds: list[tuple[float, float]]) -> None:
    subject = [[2.0**-4 * slowdown] for _, slowdown in rounds]
    baseline = [[2.0**-1 * slowdown] for _, slowdown in rounds]
    found = paired_ratio(subject, baseline)
    assert (found.median, found.low, found.high) == (8.0, 8.0, 8.0)


def test_ratio_is_the_median_over_rounds_of_baseline_through_subject() -> None:
    subject: list[list[float]] = [[1.0, 1.0, 50.0], [2.0], [4.0]]
    baseline: list[list[float]] = [[3.0], [4.0], [20.0]]
    assert paired_ratio(subject, baseline).median == 3.0  # of 3, 2 and 5


def test_unpaired_rounds_are_an_error() -> None:
    rounds: Any = [[1.0], [2.0]]
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 1"):
        paired_ratio(rounds, rounds[:1])
