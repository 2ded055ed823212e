"""Flips, intervals and the gate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.quantize.report import Change, compare_logits, flips, paired_change


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_wilson_interval_is_where_the_score_test_is_at_its_limit(count: int, more: int) -> None:
    rows = count + more
    found = flips(count, rows)
    assert found.low <= found.share <= found.high
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            assert abs(found.share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / rows), rel=1e-6)


def test_known_intervals() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    found = flips(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert round(flips(0, 20).high, 4) == 0.1611


def changed(rows: int, won: int, lost: int) -> Change:
    before = np.zeros(rows, dtype=np.bool_)
    before[: rows // 2] = True
    after = before.copy()
    after[:lost] = False
    after[rows - won :] = True
    return paired_change(before, after)


def test_the_change_counts_rows_that_changed_only() -> None:
    found = changed(1000, won=2, lost=7)
    assert found.estimate == -0.005
    centre, half = -5 / 1002, 1.959964 * math.sqrt(10 - 25 / 1002) / 1002
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), rel=1e-6)


def test_no_change_still_has_an_interval() -> None:
    assert changed(100, 0, 0).low == pytest.approx(-1.959964 / 102, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "won", "lost", "refused"),
    [
        (1000, 0, 0, False),
        (1000, 10, 10, False),
        (1000, 0, 5, False),  # half a point and no more
        (10000, 10, 55, False),  # real, but small
        (1000, 0, 8, True),
        (1000, 5, 30, True),
        (1000, 40, 48, False),  # may be chance
        (24, 0, 3, False),  # so few rows show little
        (24, 0, 9, True),
        (1000, 50, 0, False),  # a gain
    ],
)
def test_a_loss_is_refused_when_it_is_large_and_real(rows: int, won: int, lost: int, refused: bool) -> None:
    assert changed(rows, won, lost).is_loss == refused


def test_logits_are_compared_row_by_row() -> None:
    fp32 = np.zeros((2, 4, 3), dtype=np.float32)
    fp32[..., 0] = 1
    int8 = fp32.copy()
    int8[0, 0] = [0, 9, 0]  # head 0 and the vote change, from right to wrong
    int8[1, 1] = [0, 1.01, 0]  # head 1 changes, the vote with it from wrong to right
    int8[0, 1] = [0, 1, 0]
    int8[1, 2] = [1, 1.1, 0]  # head 1 changes alone
    found = compare_logits(fp32, int8, np.array([0, 1, 0, 0]), vote="logits")
    assert [head.flips for head in found.head_flips] == [2, 2]
    assert found.vote_flips.flips == 2
    assert found.accuracy.estimate == 0
