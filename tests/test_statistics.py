"""Wilson intervals against published tables, arithmetic by hand, and the test they invert."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.statistics import wilson_interval

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


# Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3 ("score, no continuity
# correction"): four data sets that span the cases, to four decimals.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


# By hand, with z^2 = 3.841459:
# 0/10: upper bound z^2 / (n + z^2) = 3.841459 / 13.841459 = 0.277533; 10/10 is its mirror.
# 8/10: scale 1.3841459, centre (0.8 + 0.19207295) / 1.3841459 = 0.716740,
#       half 1.959964 * sqrt(0.016 + 0.00960365) / 1.3841459 = 0.226577.
@pytest.mark.parametrize(
    ("correct", "low", "high"),
    [(0, 0.0, 0.277533), (10, 0.722467, 1.0), (8, 0.490163, 0.943317)],
)
def test_by_hand(correct: int, low: float, high: float) -> None:
    assert wilson_interval(correct, 10) == pytest.approx((low, high), abs=2e-6)


def test_other_level() -> None:
    # 90 %: z = 1.644854; 5/10 is symmetric about one half:
    # half = z / (2 sqrt(n + z^2)) = 1.644854 / (2 * sqrt(12.705543)) = 0.230729
    assert wilson_interval(5, 10, 0.9) == pytest.approx((0.269271, 0.730729), abs=2e-6)


def test_the_ends_are_exact() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_are_where_the_score_test_turns(counts: tuple[int, int]) -> None:
    correct, total = counts
    share = correct / total
    for bound in wilson_interval(correct, total):
        if 0 < bound < 1:
            deviation = abs(share - bound) / sqrt(bound * (1 - bound) / total)
            assert deviation == pytest.approx(Z, rel=1e-6)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson_interval(correct, total)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_no_level(level: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        wilson_interval(1, 2, level)
