"""In which unit an anomaly falls, and what the units then say."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import unit_figures
from models.datasets import DataSet, Unit
from models.figures import f1_difference, wilson
from models.unit_figures import WindowMap, Yardstick, compare, figures

HOUR = 3_600_000


def anomaly(ts=0, session=None, offset=0, score=0.9, **votes):
    votes = votes or {"deeplog": score}
    return {"ts": ts, "session": session, "score": score, "detectors": votes, "source": {"offset": offset}}


def dataset(tmp_path, unit, units, **options):
    return DataSet(folder=tmp_path, name="x", unit=unit, logs=None, units=tuple(units), **options)


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(unit_figures)
    assert result.attempted > 0
    assert result.failed == 0


# -- placing ---------------------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.booleans()), max_size=8)


def window_at(units, grace_ms, ts):
    """The window that holds a moment, the first of several; failing that, the one that ended last, within its grace."""
    for number, unit in enumerate(units):
        if unit.start_ms <= ts <= unit.end_ms:
            return number
    near = [(-unit.end_ms, number) for number, unit in enumerate(units) if unit.end_ms < ts <= unit.end_ms + grace_ms]
    return min(near)[1] if near else -1


@settings(max_examples=150, deadline=None)
@given(spans, st.integers(0, 10))
def test_each_moment_belongs_to_the_window_that_holds_it_or_ended_last_before_it(rows, grace_ms):
    units = [Unit(str(n), label, start, start + length) for n, (start, length, label) in enumerate(rows)]
    windows = WindowMap.of(units, grace_ms)
    moments = list(range(-3, 60))
    owners = [window_at(units, grace_ms, ts) for ts in moments]
    assert windows.at(np.array(moments)).tolist() == owners
    normal = np.array([not unit.is_anomalous for unit in units], np.bool_)
    assert windows.owned_ms(normal) == sum(owner >= 0 and not units[owner].is_anomalous for owner in owners)


def test_a_window_holds_what_comes_within_its_grace_unless_it_lies_in_another(tmp_path):
    units = [Unit("w1", True, 1000, 2000), Unit("w2", False, 2500, 3000), Unit("w3", True, 9000, 9500)]
    data = dataset(tmp_path, "window", units, grace_ms=1000, train_until_ms=0)
    found = figures(data, [anomaly(ts=2400)], (0, HOUR))
    assert (found["precision"], found["recall"], found["median_delay_s"]) == (1.0, 0.5, 1.4)
    assert figures(data, [anomaly(ts=2600)], (0, 1))["precision"] == 0.0
    outside = figures(data, [anomaly(ts=5000), anomaly(ts=900)], (0, 1))
    assert (outside["alerts"], outside["precision"], outside["recall"]) == (0, None, 0.0)


def test_a_session_is_known_by_its_name_and_a_line_by_its_number(tmp_path):
    sessions = Yardstick.of(dataset(tmp_path, "session", [Unit("None", True), Unit("7", False)]), None)
    found = [anomaly(session="7"), anomaly(session=None), anomaly(session="training")]
    assert sessions.unit_of(found).tolist() == [1, -1, -1]
    lines = Yardstick.of(dataset(tmp_path, "line", [Unit("0", False), Unit("7", True)]), None)
    assert lines.unit_of([anomaly(offset=7), anomaly(offset=0), anomaly(offset=1)]).tolist() == [1, 0, -1]


rows = st.tuples(
    st.sampled_from(["a", "b", "c", "elsewhere"]), st.integers(0, 9), st.sampled_from([0.0, 0.2, 0.7, 0.8])
)


@settings(max_examples=80, deadline=None)
@given(st.lists(rows, max_size=12))
def test_verdicts_are_those_of_a_loop_over_units(tmp_path_factory, found):
    data = dataset(tmp_path_factory.getbasetemp(), "session", [Unit("a", True), Unit("b", False), Unit("c", True)])
    anomalies = [anomaly(ts, session, score=score) for session, ts, score in found]
    verdicts = Yardstick.of(data, None).verdicts(anomalies)
    for at, unit in enumerate(data.units):
        inside = [number for number, one in enumerate(anomalies) if one["session"] == unit.key]
        scores = [anomalies[number]["score"] for number in inside]
        assert verdicts.alerts[at] == len(inside)
        assert verdicts.is_flagged[at] == bool(inside)
        assert verdicts.score[at] == (max([*scores, 1e-9]) if inside else 0.0)
        assert verdicts.first_ms[at] == min([anomalies[number]["ts"] for number in inside], default=0)
        assert verdicts.strongest[at] == (inside[scores.index(max(scores))] if inside else -1)
    assert verdicts.false_alerts == sum(one["session"] == "b" for one in anomalies)


def test_a_detectors_score_is_its_own_vote(tmp_path):
    data = dataset(tmp_path, "session", [Unit("a", True), Unit("b", False)])
    found = [anomaly(session="a", score=0.3, count=0.9), anomaly(session="b", score=0.8, count=0.1)]
    yardstick = Yardstick.of(data, None)
    assert yardstick.verdicts(found, "count").score.tolist() == [0.9, 0.1]
    assert yardstick.verdicts(found).score.tolist() == [0.3, 0.8]
    assert yardstick.verdicts(found, "novelty").score.tolist() == [0.3, 0.8]
    assert (figures(data, found, None, "count")["auc"], figures(data, found, None)["auc"]) == (1.0, 0.0)


# -- figures ---------------------------------------------------------------------------------------------------------


def test_a_session_is_flagged_when_an_anomaly_names_it(tmp_path):
    units = [Unit("a", True), Unit("b", True), Unit("c", False), Unit("d", False)]
    found = figures(
        dataset(tmp_path, "session", units),
        [anomaly(session="a"), anomaly(session="a"), anomaly(session="c", score=0.5), anomaly(session="training")],
        (0, 2 * HOUR),
    )
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["f_beta"] == {"0.5": 0.5, "2": 0.5}
    assert found["auc"] == pytest.approx(0.625)
    assert found["false_alarm_ratio"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["false_positive_rate"] == 0.5
    assert (found["alerts_per_hour"], found["false_alerts_per_normal_hour"]) == (1.5, 0.5)
    assert found["median_delay_s"] is None
    assert (found["flagged"], found["true_positives"], found["alerts"], found["false_alerts"]) == (2, 1, 3, 1)
    low, high = wilson(2, 4)
    assert found["errors"] == {"count": 2, "units": 4, "share": 0.5, "interval": [round(low, 5), round(high, 5)]}
    for metric, (low, high) in found["intervals"].items():
        assert 0 <= low <= found[metric] <= high <= 1


def test_false_alerts_are_counted_over_the_time_of_normal_windows_and_their_grace(tmp_path):
    units = [
        Unit("normal", False, 0, HOUR - 1),
        Unit("fault", True, 2 * HOUR, 3 * HOUR - 1),
        Unit("its start is hidden", False, 2 * HOUR, 4 * HOUR - 1),
    ]
    data = dataset(tmp_path, "window", units, grace_ms=HOUR // 2)
    found = [anomaly(ts=5), anomaly(ts=HOUR + 5), anomaly(ts=2 * HOUR + 5), anomaly(ts=10 * HOUR)]
    result = figures(data, found, (0, 10 * HOUR))
    assert (result["alerts"], result["false_alerts"]) == (3, 2)
    assert result["false_alerts_per_normal_hour"] == pytest.approx(
        2 / 3, abs=1e-5
    )  # 1 h, ½ h of grace; 1 h, ½ h of grace
    assert result["alerts_per_hour"] == 0.3
    only_faults = dataset(tmp_path, "window", units[1:2])
    assert figures(only_faults, found, (0, HOUR))["false_alerts_per_normal_hour"] is None


def test_the_training_part_is_no_time_of_the_test(tmp_path):
    session = [Unit("a", False)]
    until = dataset(tmp_path, "session", session, train_until_ms=3 * HOUR)
    assert Yardstick.of(until, (0, 10 * HOUR)).test_hours == 7
    assert Yardstick.of(until, (4 * HOUR, 10 * HOUR)).test_hours == 6
    assert Yardstick.of(until, (0, 3 * HOUR)).test_hours is None
    assert Yardstick.of(until, None).test_hours is None
    overlapping = ((5 * HOUR, 7 * HOUR), (6 * HOUR, 8 * HOUR), (9 * HOUR, 20 * HOUR))
    windows = dataset(tmp_path, "session", session, train_windows=overlapping)
    assert Yardstick.of(windows, (0, 10 * HOUR)).test_hours == 6
    assert Yardstick.of(windows, (9 * HOUR, 10 * HOUR)).test_hours is None


def test_without_anything_anomalous_only_false_alarms_are_measured(tmp_path):
    data = dataset(tmp_path, "session", [Unit("a", False), Unit("b", False)])
    found = figures(data, [anomaly(session="b")], (0, HOUR))
    assert (found["precision"], found["recall"], found["f1"], found["auc"], found["pr_auc"]) == (0.0, *[None] * 4)
    assert found["f_beta"] == {"0.5": None, "2": None}
    assert found["intervals"] == {
        "precision": [0.0, 0.0],
        "recall": None,
        "f1": None,
        "auc": None,
        "pr_auc": None,
    }
    assert (found["false_positive_rate"], found["false_alerts_per_normal_hour"]) == (0.5, 1.0)


def test_without_any_flag_recall_is_zero_and_precision_does_not_exist(tmp_path):
    units = [Unit("a", True, 0, HOUR), Unit("b", False, 2 * HOUR, 3 * HOUR - 1)]
    found = figures(dataset(tmp_path, "window", units), [], (0, 3 * HOUR))
    assert (found["precision"], found["recall"], found["f1"]) == (None, 0.0, 0.0)
    assert (found["auc"], found["pr_auc"]) == (0.5, 0.5)
    assert (found["false_alarm_ratio"], found["false_positive_rate"], found["median_delay_s"]) == (None, 0.0, None)
    assert (found["alerts_per_hour"], found["false_alerts_per_normal_hour"]) == (0.0, 0.0)
    assert found["intervals"]["precision"] is None


@pytest.mark.parametrize(("is_anomalous", "wrong"), [(True, 0), (False, 1)])
def test_one_unit_alone_has_figures(tmp_path, is_anomalous, wrong):
    found = figures(dataset(tmp_path, "line", [Unit("3", is_anomalous)]), [anomaly(offset=3, score=0.0)], None)
    assert found["precision"] == 1.0 - wrong
    assert found["auc"] is None
    assert found["errors"]["count"] == wrong
    assert found["errors"]["interval"] == [round(end, 5) for end in wilson(wrong, 1)]


def test_without_labels_no_figure_exists(tmp_path):
    for unit in ("session", "window", "line"):
        found = figures(dataset(tmp_path, unit, []), [anomaly(session="a")], (0, HOUR))
        assert (found["f1"], found["alerts"], found["errors"]["interval"]) == (None, 0, None)
        assert set(found["intervals"].values()) == {None}


def test_verdicts_are_compared_by_the_units_they_flag(tmp_path):
    data = dataset(tmp_path, "session", [Unit(str(n), n < 10) for n in range(40)])
    yardstick = Yardstick.of(data, None)
    better = yardstick.verdicts([anomaly(session=str(n)) for n in range(9)])
    worse = yardstick.verdicts([anomaly(session=str(n)) for n in range(4, 14)])
    found = compare(better, worse)
    assert found == f1_difference(better.is_anomalous, better.is_flagged, worse.is_flagged)
    assert found.value == pytest.approx(18 / 19 - 12 / 20)
    assert found.low < found.value < found.high
    assert compare(better, better).value == 0.0
