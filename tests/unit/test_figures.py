"""Figures against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.figures import auc, median, pr_auc, precision_recall_f1

units = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=2, max_size=30)


@settings(max_examples=60, deadline=None)
@given(units)
def test_auc_is_the_chance_that_an_anomalous_unit_scores_higher(rows):
    positive = [score for is_anomalous, score in rows if is_anomalous]
    negative = [score for is_anomalous, score in rows if not is_anomalous]
    found = auc(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))
    if not positive or not negative:
        assert found is None
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert found == pytest.approx(wins / (len(positive) * len(negative)))


@settings(max_examples=60, deadline=None)
@given(units)
def test_average_precision_steps_once_for_each_distinct_score(rows):
    labels, scores = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    found = pr_auc(labels, scores)
    if labels.all() or not labels.any():
        assert found is None
        return
    area = recall_before = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        precision, recall, _ = precision_recall_f1(labels, scores >= threshold)
        area += (recall - recall_before) * precision
        recall_before = recall
    assert found == pytest.approx(area)


def test_figures_that_do_not_exist_are_none():
    nothing, some = np.array([False, False]), np.array([True, False])
    assert precision_recall_f1(some, nothing) == (None, 0.0, 0.0)
    assert precision_recall_f1(nothing, some) == (0.0, None, None)
    assert median([]) is None
    assert median([3.0, 1.0]) == 2.0
