from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.split import split

costs_by_size = st.dictionaries(st.integers(1, 9), st.floats(0, 100), min_size=1, max_size=4)


@given(costs_by_size, st.integers(0, 30))
def test_splits_have_the_lowest_cost(costs: dict[int, float], rows: int) -> None:
    @cache
    def lowest(rows: int) -> float:
        return 0.0 if rows <= 0 else min(cost + lowest(rows - size) for size, cost in costs.items())

    sizes = split(rows, costs)
    assert sum(sizes) >= rows
    assert sum(sizes[:-1]) < rows or not rows, "a piece would hold nothing but padding"
    assert sizes == sorted(sizes, reverse=True)
    assert sum(costs[size] for size in sizes) == pytest.approx(lowest(rows))
