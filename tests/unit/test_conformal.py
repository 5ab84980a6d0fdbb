"""Evidence of a score against normal ones: a count of those above it, and beyond the largest a tail."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import conformal
from models.conformal import NormalScores

values = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0, 3.5, 10.0])
TOLERANCE = 2e-4  # evidence is rounded to 1e-4


def counted(normal, score):
    """The evidence by the book: the share of normal scores above, with half of those equal and of the score itself."""
    larger, same = np.count_nonzero(np.asarray(normal) > score), np.count_nonzero(np.asarray(normal) == score)
    return -math.log10((larger + same / 2 + 0.5) / (len(normal) + 1))


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(conformal)
    assert result.attempted > 0
    assert result.failed == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=40), st.lists(values, max_size=10))
def test_evidence_is_a_count_of_the_normal_scores_above_with_ties_by_half(normal, scores):
    found = NormalScores.of(np.array(normal, np.float32)).evidence(np.array(scores, np.float32))
    for score, evidence in zip(scores, found.tolist(), strict=True):
        if score < min(normal):
            assert evidence == 0
        elif score <= max(normal):
            assert evidence == pytest.approx(counted(normal, score), abs=TOLERANCE)
        else:
            assert evidence >= counted(normal, score) - TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=60),
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20),
)
def test_a_higher_score_never_has_less_evidence(normal, scores):
    found = NormalScores.of(np.array(normal, np.float32)).evidence(np.sort(np.array(scores, np.float32)))
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert np.isfinite(found).all()


def test_half_of_normal_scores_have_about_the_evidence_of_a_coin():
    normal = NormalScores.of(np.random.default_rng(0).normal(size=2_000).astype(np.float32))
    fresh = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    evidence = normal.evidence(fresh)
    for one_in in (2, 10, 100):
        assert (evidence >= math.log10(one_in)).mean() == pytest.approx(1 / one_in, rel=0.25)


def test_beyond_the_largest_score_evidence_grows_as_the_tail_says_and_within_a_bound():
    scale = 2.0
    scores = np.random.default_rng(2).exponential(scale, 5_000).astype(np.float32)
    normal = NormalScores.of(scores)
    largest = float(scores.max())
    edge, near, far, farther = normal.evidence(np.array([largest, largest + 0.2, 1e6, 1e9], np.float32)).tolist()
    above = counted(scores, largest + 0.2)
    assert (near - above) / 0.2 == pytest.approx(1 / (scale * math.log(10)), rel=0.4)
    assert edge < above < near < far == farther
    assert far - above < 3


def test_scores_that_are_all_equal_have_no_tail():
    normal = NormalScores.of(np.full(99, 0.5, np.float32))
    at, little, much = normal.evidence(np.array([0.5, 0.51, 1e6], np.float32)).tolist()
    assert at == pytest.approx(counted([0.5] * 99, 0.5), abs=TOLERANCE)
    assert little == much == pytest.approx(-math.log10(0.5 / 100), abs=TOLERANCE)


def test_nan_says_nothing_and_counts_nothing():
    scores = np.array([1.0, np.nan, 2.0, np.nan, 3.0], np.float32)
    normal, spoken = NormalScores.of(scores), NormalScores.of(scores[~np.isnan(scores)])
    assert normal.count == 3
    asked = np.array([np.nan, 2.0, 9.0], np.float32)
    assert normal.evidence(asked).tolist() == spoken.evidence(asked).tolist()
    assert normal.evidence(asked)[0] == 0
    assert normal.evidence(asked)[1] > 0


@pytest.mark.parametrize("scores", [[], [np.nan, np.nan]])
def test_without_normal_scores_there_is_no_evidence(scores):
    normal = NormalScores.of(np.array(scores, np.float32))
    assert normal.count == 0
    assert normal.evidence(np.array([0.0, 1e9, np.nan], np.float32)).tolist() == [0, 0, 0]
    again = NormalScores.from_arrays(normal.arrays())
    assert again.evidence(np.array([1.0], np.float32)).tolist() == [0]


def test_a_table_of_many_scores_is_small_exact_at_the_top_and_never_too_bold_below():
    scores = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    normal = NormalScores.of(scores)
    assert len(normal.value) <= 512
    ordered = np.sort(np.unique(scores))
    asked = np.concatenate((ordered[-200:], ordered[::97]))
    exact = np.array([counted(scores, score) for score in asked])
    found = normal.evidence(asked)
    assert np.abs(found - exact)[:200].max() < TOLERANCE
    assert (found - exact).max() < TOLERANCE
    assert np.abs(found - exact).max() < 0.3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), max_size=30), st.lists(st.floats(-9, 9, width=32), max_size=10))
def test_what_is_kept_as_arrays_comes_back(normal, scores):
    table = NormalScores.of(np.array(normal, np.float32))
    again = NormalScores.from_arrays(table.arrays())
    asked = np.array(scores, np.float32)
    assert again.evidence(asked).tolist() == table.evidence(asked).tolist()
    assert (again.count, again.slope) == (table.count, table.slope)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("value", [2.0, 1.0]),
        ("value", [1.0, 1.0]),
        ("value", [1.0]),
        ("value", [1.0, np.nan]),
        ("at", [1.0, 2.0, 3.0]),
        ("at", [np.nan, 2.0]),
        ("above", [0.0, np.inf]),
        ("tail", [np.nan, 2.0]),
    ],
)
def test_damaged_arrays_are_refused(name, array):
    arrays = NormalScores.of(np.array([1.0, 2.0])).arrays()
    assert NormalScores.from_arrays(arrays).count == 2
    with pytest.raises(ValueError, match="damaged"):
        NormalScores.from_arrays({**arrays, name: np.array(array)})
