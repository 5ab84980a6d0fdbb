"""From evidence to a verdict: families, the budget, and what normal lines reached."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import fusion
from models.conformal import NormalScores
from models.detectors.contract import Scores
from models.errors import SettingsError
from models.fusion import Calibration, Fusion, FusionParams, tail_of
from models.incidents import Suspects

NAMES = ("deeplog", "ngram", "novelty", "count", "frequency")  # the last speaks of its service as a whole
FAMILIES = ("order", "order", "text", "number", "number")


def calibration(lines=400, seed=0, days=2.0, names=NAMES, families=FAMILIES):
    """Normal lines of which some carried evidence: a session each, over two days."""
    rng = np.random.default_rng(seed)
    tables = {name: NormalScores.of(rng.exponential(1.0, 1_000).astype(np.float32)) for name in names}
    evidence = rng.exponential(0.8, (lines, len(names))).astype(np.float32) + 1
    return Calibration(
        names=names,
        families=families,
        line=tables,
        end={name: NormalScores.of(rng.exponential(1.0, 200).astype(np.float32)) for name in names},
        evidence=evidence,
        suspects=Suspects(
            key=np.arange(lines).astype(np.uint64) + 2**63,
            service=np.full(lines, 2**63 + 5, np.uint64),
            piece=(np.arange(lines) % 50 - 10).astype(np.int32),
            now=np.sort(rng.integers(0, int(days * 86_400_000), lines)),
            has_session=np.arange(lines) % 5 > 0,
            weight=np.zeros(lines, np.float32),
        ),
        days=days,
    )


NORMAL = calibration()
QUIET = calibration(lines=0)


def weights(rows, detectors=None):
    """What some rows of evidence amount to, for the lines' own sessions and for their services."""
    return Fusion(NORMAL, FusionParams(detectors=detectors)).weight(np.array(rows, np.float32)).tolist()


def weight(rows, detectors=None):
    """What some rows of evidence of four detectors amount to for the lines' own sessions."""
    if detectors is None:
        rows = [[*row, 0] for row in rows]
    own, service = weights(rows, detectors)
    assert not any(service)
    return own


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(fusion)
    assert result.attempted > 0
    assert result.failed == 0


# -- weights ---------------------------------------------------------------------------------------------------------


def test_detectors_of_one_family_share_a_voice_and_families_add_up():
    one, both, two_families, all_four = weight([[4, 0, 0, 0], [4, 4, 0, 0], [4, 0, 4, 0], [4, 4, 4, 4]])
    alone = weight([[4]], ("deeplog",))[0]
    assert one <= both <= alone
    assert two_families > both
    discounted = alone - (fusion._USUAL - fusion._USUAL_ALONE)  # where others vote too, their noise is allowed for
    assert all_four == pytest.approx(3 * discounted)
    assert weight([[4, 4]], ("deeplog", "ngram")) == [alone]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 9, width=32), min_size=4, max_size=4),
    st.lists(st.floats(0, 3, width=32), min_size=4, max_size=4),
)
def test_more_evidence_never_weighs_less(evidence, more):
    before, after = weight([evidence, np.add(evidence, more)])
    assert 0 <= before <= after + 1e-3


def test_evidence_that_every_tenth_line_has_weighs_nothing():
    usual = [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0.3, 0.9, 1.0, 0.5, 0.7]]
    assert weights(usual) == [[0, 0, 0], [0, 0, 0]]


def test_what_speaks_of_the_service_weighs_for_the_service_alone():
    own, service = weights([[0, 0, 0, 4, 0], [0, 0, 0, 0, 4], [0, 0, 0, 4, 4]])
    assert own == [own[0], 0, own[0]]
    assert service == [0, service[1], service[1]]
    assert own[0] > 0
    assert service[1] > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 9, width=32), min_size=5, max_size=5),
    st.sets(st.sampled_from(NAMES), min_size=1),
)
def test_no_choice_of_detectors_makes_more_of_a_line_than_the_loudest(evidence, chosen):
    row = np.array([evidence], np.float32)
    at = [place for place, name in enumerate(NAMES) if name in chosen]
    loudest = Fusion(NORMAL, FusionParams()).loudest(row)
    heard = Fusion(NORMAL, FusionParams(detectors=tuple(chosen))).weight(row[:, at])
    assert (heard <= loudest).all()
    assert loudest.tolist() == Fusion(NORMAL, FusionParams()).loudest(np.repeat(row, 2, axis=0)).tolist()[:1]


def test_lines_are_suspects_of_their_session_and_of_their_service_in_source_order():
    about = Suspects(
        key=np.array([7, 8, 2**63 + 5], np.uint64),
        service=np.full(3, 2**63 + 5, np.uint64),
        piece=np.array([0, -1, 2], np.int32),
        now=np.array([10, 20, 30], np.int64),
        has_session=np.array([True, True, False]),
        weight=np.zeros(3, np.float32),
    )
    weight = np.array([[3, 0.5, 4], [5, 6, 7]], np.float32)  # own, service
    found, row, is_wide = Fusion(NORMAL, FusionParams()).suspects(weight, about)
    assert row.tolist() == [0, 0, 1, 2, 2]
    assert is_wide.tolist() == [False, True, True, False, True]
    assert found.weight.tolist() == [3, 5, 6, 4, 7]
    assert found.now.tolist() == [10, 10, 20, 30, 30]
    assert found.has_session.tolist() == [True, False, False, False, False]
    own, wide = set(found.key[~is_wide].tolist()), set(found.key[is_wide].tolist())
    assert own == {7, 2**63 + 5}  # a service's lines without session are a group of their own
    assert len(wide) == 1
    assert not own & wide
    assert set(found.service.tolist()) == {2**63 + 5}


def test_scores_become_evidence_by_the_tables_of_their_detector():
    found = Fusion(NORMAL, FusionParams(detectors=("ngram", "count")))
    scores = {
        name: Scores(np.array([0.5 * at, np.nan], np.float32), np.array([at], np.float32))
        for at, name in enumerate(NAMES)
    }
    line, end = found.evidence(scores)
    assert line.shape == (2, 2)
    assert end.shape == (1, 2)
    for column, name in enumerate(("ngram", "count")):
        assert line[:, column].tolist() == NORMAL.line[name].evidence(scores[name].line).tolist()
        assert end[:, column].tolist() == NORMAL.end[name].evidence(scores[name].end).tolist()
    assert line[1].tolist() == [0, 0]
    nothing = Scores(np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert [part.shape for part in found.evidence(dict.fromkeys(NAMES, nothing))] == [(0, 2), (0, 2)]
    assert found.weight(np.zeros((0, 2), np.float32)).shape == (2, 0)


# -- a choice of detectors -------------------------------------------------------------------------------------------


def test_a_choice_of_detectors_is_as_a_model_that_has_no_others():
    chosen = ("novelty", "ngram")
    at = [NAMES.index(name) for name in NAMES if name in chosen]
    fewer = replace(
        NORMAL,
        names=tuple(NAMES[one] for one in at),
        families=tuple(FAMILIES[one] for one in at),
        evidence=NORMAL.evidence[:, at],
    )
    found, alone = Fusion(NORMAL, FusionParams(1.0, detectors=chosen)), Fusion(fewer, FusionParams(1.0))
    assert found.names == alone.names == ("ngram", "novelty")  # in the model's order
    assert found.threshold == alone.threshold
    assert found.peaks.tolist() == alone.peaks.tolist()
    assert found.threshold < Fusion(NORMAL, FusionParams(1.0)).threshold


def test_a_detector_that_the_model_lacks_has_no_vote_and_if_none_is_left_that_is_refused():
    assert Fusion(NORMAL, FusionParams(detectors=("count", "rapid"))).names == ("count",)
    with pytest.raises(SettingsError, match="none of the detectors rapid, oracle; it has deeplog, ngram, novelty"):
        Fusion(NORMAL, FusionParams(detectors=("rapid", "oracle")))


# -- the budget ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 10_000), min_size=2, max_size=6), st.sampled_from([0, 1, 12, 400]))
def test_a_smaller_budget_never_has_a_lower_threshold(budgets, lines):
    normal = {0: QUIET, 400: NORMAL}.get(lines) or calibration(lines)
    thresholds = [Fusion(normal, FusionParams(budget)).threshold for budget in sorted(budgets)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert all(math.isfinite(threshold) and threshold > 0 for threshold in thresholds)


@pytest.mark.parametrize("budget", [0.01, 0.5, 2.0])
def test_at_the_threshold_as_many_normal_incidents_are_expected_as_the_budget_allows(budget):
    found = Fusion(NORMAL, FusionParams(budget))
    assert found.false_per_day(found.threshold) == pytest.approx(budget, rel=0.01)
    told = np.count_nonzero(found.peaks >= found.threshold) / NORMAL.days
    assert told <= 3 * budget + 1  # the tail is fitted, not counted


def test_models_share_the_budget():
    alone, one_of_four = Fusion(NORMAL, FusionParams(0.5)), Fusion(NORMAL, FusionParams(2.0, shares=4))
    assert one_of_four.threshold == alone.threshold
    assert one_of_four.threshold > Fusion(NORMAL, FusionParams(2.0)).threshold


def test_stronger_incidents_are_expected_less_often():
    found = Fusion(NORMAL, FusionParams())
    rates = [found.false_per_day(strength) for strength in np.linspace(0, 40, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-3 * rates[0]


def test_the_more_days_the_same_peaks_took_the_rarer_they_are():
    short, long = Fusion(NORMAL, FusionParams(1.0)), Fusion(replace(NORMAL, days=20.0), FusionParams(1.0))
    strength = float(short.peaks[0]) + 1
    assert long.false_per_day(strength) == pytest.approx(short.false_per_day(strength) / 10)
    assert long.threshold < short.threshold


@pytest.mark.parametrize("budget", [0, -1, 10_001, math.nan])
def test_a_budget_that_cannot_be_is_refused(budget):
    with pytest.raises(SettingsError, match="budget_per_day is"):
        FusionParams(budget_per_day=budget)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(1, 60), max_size=80), st.floats(0.01, 100))
def test_the_tail_of_any_peaks_can_be_used(strengths, days):
    ordered = np.sort(np.array(strengths))[::-1]
    start, excess, rate = tail_of(ordered, days)
    assert math.isfinite(start)
    assert excess > 0
    assert 0 < rate * days <= max(1.001, len(strengths) + 0.001)
    if strengths:
        assert min(strengths) <= start <= max(strengths)
    assert tail_of(ordered + 5, days)[1] == pytest.approx(excess)


def test_one_incident_among_normal_lines_hardly_moves_the_tail():
    ordered = np.sort(np.random.default_rng(0).exponential(1.0, 500) + 1)[::-1]
    _, usual, _ = tail_of(ordered, 10.0)
    spoilt = ordered.copy()
    spoilt[0] = 500.0
    _, excess, _ = tail_of(spoilt, 10.0)
    assert excess == pytest.approx(usual)
    assert np.mean(spoilt[:25]) > 4 * np.mean(ordered[:25])  # where a mean would have moved


# -- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normal", [NORMAL, QUIET])
def test_what_is_kept_as_arrays_comes_back(normal):
    again = Calibration.from_arrays(normal.names, normal.families, normal.arrays())
    kept, read = normal.arrays(), again.arrays()
    assert set(kept) == set(read)
    for name, array in kept.items():
        assert np.array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert again.suspects.key.tolist() == normal.suspects.key.tolist()
    for detectors in (None, ("count",)):
        params = FusionParams(1.0, detectors=detectors)
        assert Fusion(again, params).threshold == Fusion(normal, params).threshold


@pytest.mark.parametrize("name", ["key", "service", "piece", "now", "has_session"])
def test_columns_of_different_length_are_refused(name):
    arrays = NORMAL.arrays()
    with pytest.raises(ValueError, match="differ in length"):
        Calibration.from_arrays(NAMES, FAMILIES, {**arrays, name: arrays[name][:-1]})


def test_a_family_for_each_detector_is_asked_for_and_each_table():
    arrays = NORMAL.arrays()
    with pytest.raises(ValueError, match="differ in length"):
        Calibration.from_arrays(NAMES, FAMILIES[:-1], arrays)
    with pytest.raises(KeyError, match=r"line\.count\.above"):
        Calibration.from_arrays(NAMES, FAMILIES, {n: a for n, a in arrays.items() if n != "line.count.above"})
