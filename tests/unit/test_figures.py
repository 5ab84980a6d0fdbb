"""Figures against their definitions, and intervals against resampling done by hand."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import figures
from models.figures import (
    Cells,
    auc,
    bootstrap,
    f1_difference,
    f_beta,
    median,
    pr_auc,
    pr_points,
    precision_recall_f1,
    roc_points,
    wilson,
)

units = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=2, max_size=30)
some_units = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 1.0])), min_size=1, max_size=20)


def columns(rows):
    return np.array([r[0] for r in rows], np.bool_), np.array([r[1] for r in rows], np.float64)


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(figures)
    assert result.attempted > 5
    assert result.failed == 0


@settings(max_examples=60, deadline=None)
@given(units)
def test_auc_is_the_chance_that_an_anomalous_unit_scores_higher(rows):
    positive = [score for is_anomalous, score in rows if is_anomalous]
    negative = [score for is_anomalous, score in rows if not is_anomalous]
    found = auc(*columns(rows))
    if not positive or not negative:
        assert found is None
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert found == pytest.approx(wins / (len(positive) * len(negative)))


@settings(max_examples=60, deadline=None)
@given(units)
def test_average_precision_steps_once_for_each_distinct_score(rows):
    labels, scores = columns(rows)
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


@settings(max_examples=60, deadline=None)
@given(units, st.sampled_from([0.5, 1.0, 2.0]))
def test_f_beta_weighs_precision_and_recall(rows, beta):
    labels, scores = columns(rows)
    precision, recall, f1 = precision_recall_f1(labels, scores > 0.3)
    found = f_beta(labels, scores > 0.3, beta)
    if recall is None:
        assert found is None
    elif not precision or not recall:
        assert found == 0
    else:
        assert found == pytest.approx((1 + beta**2) * precision * recall / (beta**2 * precision + recall))
        assert beta != 1 or found == pytest.approx(f1)


@settings(max_examples=60, deadline=None)
@given(units)
def test_curves_hold_one_point_for_each_threshold(rows):
    labels, scores = columns(rows)
    thresholds = sorted(set(scores.tolist()), reverse=True)
    false_rate, recall = roc_points(labels, scores)
    if labels.all() or not labels.any():
        assert len(false_rate) == len(recall) == 0
    else:
        assert (false_rate[0], recall[0]) == (0.0, 0.0)
        assert false_rate[1:] == pytest.approx([(scores[~labels] >= t).mean() for t in thresholds])
        assert recall[1:] == pytest.approx([(scores[labels] >= t).mean() for t in thresholds])
        assert np.trapezoid(recall, false_rate) == pytest.approx(auc(labels, scores))
    recall, precision = pr_points(labels, scores)
    if not labels.any():
        assert len(recall) == len(precision) == 0
    else:
        assert precision == pytest.approx([labels[scores >= t].mean() for t in thresholds])
        assert recall == pytest.approx([(scores[labels] >= t).mean() for t in thresholds])


def test_figures_that_do_not_exist_are_none():
    nothing, some = np.array([False, False]), np.array([True, False])
    assert precision_recall_f1(some, nothing) == (None, 0.0, 0.0)
    assert precision_recall_f1(nothing, some) == (0.0, None, None)
    assert f_beta(nothing, some, 2.0) is None
    assert median([]) is None
    assert median([3.0, 1.0]) == 2.0
    assert wilson(0, 0) is None


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (3, 1000, 0.00102, 0.00878)],
)
def test_wilson_gives_the_interval_of_a_share(count, total, low, high):
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(count, total, 0.5)[1] - wilson(count, total, 0.5)[0] < high - low


def test_wilson_solves_the_equation_it_comes_from():
    low, high = wilson(7, 40)
    for end in (low, high):
        assert abs(7 / 40 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 40), rel=1e-5)


@settings(max_examples=80, deadline=None)
@given(some_units, st.randoms(use_true_random=False))
def test_a_resample_has_the_figures_of_its_units(rows, random):
    """Drawing cells is drawing units: the figures are those of a list with each unit as often as it was drawn."""
    labels, scores = columns(rows)
    flags = scores > 0.3
    cells = Cells.of(labels, flags, scores)
    drawn = random.choices(range(len(rows)), k=len(rows))
    alike = {}
    for label, flag, score in zip(labels.tolist(), flags.tolist(), scores.tolist(), strict=True):
        alike.setdefault((-score, flag, label), len(alike))
    order = {kind: place for place, kind in enumerate(sorted(alike))}
    counts = np.zeros((1, len(order)))
    for at in drawn:
        counts[0, order[(-scores[at], bool(flags[at]), bool(labels[at]))]] += 1
    found = cells.figures(counts)
    label, flag, score = labels[drawn], flags[drawn], scores[drawn]
    names = ("precision", "recall", "f1", "auc", "pr_auc")
    naive = (*precision_recall_f1(label, flag), auc(label, score), pr_auc(label, score))
    for name, value in zip(names, naive, strict=True):
        assert found[name][0] == pytest.approx(np.nan if value is None else value, nan_ok=True), name


def made_up(count=400, seed=5):
    random = np.random.default_rng(seed)
    labels = random.random(count) < 0.2
    scores = np.where(random.random(count) < np.where(labels, 0.8, 0.05), random.integers(1, 40, count) / 40, 0.0)
    return labels, scores > 0, scores


def test_bootstrap_agrees_with_drawing_units_one_by_one():
    labels, flags, scores = made_up()
    random = np.random.default_rng(1)
    naive = []
    for _ in range(1500):
        at = random.integers(0, len(labels), len(labels))
        naive.append(
            (
                *precision_recall_f1(labels[at], flags[at]),
                auc(labels[at], scores[at]),
                pr_auc(labels[at], scores[at]),
            )
        )
    expected = np.quantile(np.array(naive), [0.025, 0.975], axis=0).T
    found = bootstrap(labels, flags, scores)
    assert list(found) == ["precision", "recall", "f1", "auc", "pr_auc"]
    assert np.array(list(found.values())) == pytest.approx(expected, abs=0.012)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = np.ones(150, np.bool_)
        flags = random.random(150) < 0.7
        low, high = bootstrap(labels, flags, flags.astype(float), seed=seed, resamples=400)["recall"]
        covered += low <= 0.7 <= high
    assert 0.9 <= covered / 200 <= 0.985


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    labels, flags, scores = made_up()
    whole = bootstrap(labels, flags, scores, seed=7)
    assert bootstrap(labels, flags, scores, seed=8) != whole
    monkeypatch.setattr(figures, "_DRAWN_AT_ONCE", 1000)
    assert bootstrap(labels, flags, scores, seed=7) == whole


def test_intervals_do_not_exist_where_figures_do_not():
    yes, no = np.array([True] * 5), np.array([False] * 5)
    zero, half = np.zeros(5), np.full(5, 0.5)
    none_flagged = bootstrap(yes, no, zero)
    assert none_flagged == {"precision": None, "recall": (0.0, 0.0), "f1": (0.0, 0.0), "auc": None, "pr_auc": None}
    none_anomalous = bootstrap(no, yes, half)
    assert none_anomalous == {"precision": (0.0, 0.0), "recall": None, "f1": None, "auc": None, "pr_auc": None}
    one = bootstrap(yes[:1], yes[:1], half[:1])
    assert one == {"precision": (1.0, 1.0), "recall": (1.0, 1.0), "f1": (1.0, 1.0), "auc": None, "pr_auc": None}
    assert set(bootstrap(yes[:0], yes[:0], half[:0]).values()) == {None}
    assert set(bootstrap(yes, yes, half, resamples=0).values()) == {None}
    assert f1_difference(no, yes, no) is None
    assert f1_difference(yes[:0], yes[:0], yes[:0]) is None


def test_a_figure_that_some_resamples_lack_has_an_interval_from_the_others():
    labels = np.array([True, False, False])
    low, high = bootstrap(labels, labels, labels.astype(float))["recall"]
    assert (low, high) == (1.0, 1.0)


def test_a_difference_is_that_of_both_over_the_same_units():
    labels, flags, _ = made_up()
    random = np.random.default_rng(2)
    other = flags ^ (random.random(len(flags)) < 0.04)
    found = f1_difference(labels, flags, other)
    f1, f1_other = precision_recall_f1(labels, flags)[2], precision_recall_f1(labels, other)[2]
    assert found.value == pytest.approx(f1 - f1_other)
    naive = []
    for _ in range(1500):
        at = random.integers(0, len(labels), len(labels))
        naive.append(precision_recall_f1(labels[at], flags[at])[2] - precision_recall_f1(labels[at], other[at])[2])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])), abs=0.012)
    back = f1_difference(labels, other, flags)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), abs=0.012)


def test_pairing_narrows_the_interval_of_a_difference():
    labels, flags, scores = made_up()
    other = flags.copy()
    other[np.flatnonzero(labels & flags)[:3]] = False
    paired = f1_difference(labels, flags, other)
    alone = bootstrap(labels, flags, scores)["f1"]
    assert paired.low >= 0
    assert paired.high - paired.low < (alone[1] - alone[0]) / 1.5
