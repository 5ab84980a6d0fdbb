"""The report: figures of every verdict side by side, and pictures and cases that stay small."""

from __future__ import annotations

import doctest

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import report as report_module
from models.datasets import DataSet, Unit
from models.report import BINS, CASES, build_report, thinned
from models.unit_figures import Yardstick, compare

HOUR = 3_600_000


def anomaly(ts=0, session=None, score=0.9, **votes):
    return {
        "ts": ts,
        "service": "cart",
        "session": session,
        "level": "ERROR",
        "score": score,
        "detectors": votes or {"deeplog": score},
        "template_id": "0000abcd",
        "template": "disk <*> melted",
        "message": "disk 7 melted",
        "explanation": "No line like it was seen.",
        "source": {"offset": 17},
    }


def sessions(tmp_path, labels, **options):
    units = tuple(Unit(f"s{n}", label) for n, label in enumerate(labels))
    return DataSet(folder=tmp_path, name="shop", unit="session", logs=None, units=units, **options)


def build(data, fused=(), by_detector=None, without=None, span_ms=None, **options):
    options = {"data_sha256": "ab" * 32, "resamples": 200} | options
    return build_report(data, list(fused), by_detector or {}, without or {}, span_ms, **options)


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(report_module)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_verdict_has_its_figures_and_is_compared_with_the_fused_one(tmp_path):
    data = sessions(tmp_path, [n < 10 for n in range(40)], train_sessions=frozenset("xyz"))
    fused = [anomaly(session=f"s{n}") for n in range(12)]
    by_detector = {
        "count": [anomaly(session=f"s{n}", score=1.0, count=0.5, novelty=0.1) for n in range(5)],
        "novelty": [anomaly(session="s30")],
    }
    without = {"count": fused[4:], "novelty": fused}
    found = build(data, fused, by_detector, without, (0, 2 * HOUR), versions={"driftwood": "1"}, seed=3)
    yardstick = Yardstick.of(data, (0, 2 * HOUR))
    whole, count = yardstick.verdicts(fused), yardstick.verdicts(by_detector["count"], "count")
    assert found["fused"] == yardstick.figures(whole, seed=3, resamples=200)
    assert found["detectors"]["count"] == yardstick.figures(count, seed=3, resamples=200)
    gain = compare(whole, count, seed=3, resamples=200)
    assert found["fusion_gain"]["count"] == {
        "value": round(gain.value, 5),
        "low": round(gain.low, 5),
        "high": round(gain.high, 5),
    }
    assert found["ablation"]["novelty"]["f1_change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    left = found["ablation"]["count"]
    assert left["figures"]["true_positives"] == 6
    assert left["f1_change"]["value"] == pytest.approx(12 / 18 - 20 / 22, abs=1e-5)
    assert left["f1_change"]["high"] < 0
    assert (found["dataset"], found["data_sha256"], found["versions"]) == ("shop", "ab" * 32, {"driftwood": "1"})
    assert (found["units"], found["anomalous"], found["anomalies"], found["seed"]) == (40, 10, 12, 3)
    assert found["split"]["train_sessions"] == 3
    assert found["split"]["train_until_ms"] is None
    assert found["split"]["test_hours"] == 2


def test_curves_end_where_every_unit_is_flagged(tmp_path):
    data = sessions(tmp_path, [True, True, False, False])
    found = build(data, [anomaly(session="s0"), anomaly(session="s2", score=0.5)], {"count": []})["curves"]
    assert found["roc"]["fused"] == [[0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [1.0, 1.0]]
    assert found["pr"]["fused"] == [[0.5, 1.0], [0.5, 0.5], [1.0, 0.5]]
    assert found["roc"]["count"] == [[0.0, 0.0], [1.0, 1.0]]
    assert found["base_rate"] == 0.5
    assert list(found["roc"]) == ["fused", "count"]


curve = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=300)


@settings(max_examples=60, deadline=None)
@given(curve, st.integers(1, 8))
def test_thinning_keeps_the_ends_and_the_extremes_of_each_stretch(points, bins):
    points = sorted((round(x, 4), round(y, 4)) for x, y in points)
    x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    kept = [tuple(point) for point in thinned(x, y, bins)]
    assert set(kept) <= set(points)
    assert kept == sorted(kept, key=lambda point: point[0])
    for stretch in range(bins):
        inside = [p for p in points if min(int(p[0] * bins), bins - 1) == stretch]
        left = [p for p in kept if min(int(p[0] * bins), bins - 1) == stretch]
        assert len(left) <= 4
        assert bool(inside) == bool(left)
        if inside:
            assert (left[0], left[-1]) == (inside[0], inside[-1])
            assert {min(p[1] for p in inside), max(p[1] for p in inside)} <= {p[1] for p in left}


def test_misses_name_what_single_detectors_saw_and_false_alarms_their_strongest_anomaly(tmp_path):
    data = sessions(tmp_path, [True, True, True, False, False])
    weak, strong = anomaly(5, "s1", 0.4, count=0.4), anomaly(6, "s1", 0.8, novelty=0.8)
    fused = [
        anomaly(session="s0"),
        anomaly(1, "s3", 0.6),
        anomaly(2, "s3", 0.7, count=0.7, rapid=None),
        anomaly(3, "s4"),
    ]
    found = build(data, fused, {"count": [weak], "novelty": [strong, anomaly(7, "s1", 0.3, novelty=0.3)]})
    seen, unseen = found["misses"]
    assert (seen["unit"], seen["score"], seen["detectors"], seen["ts"]) == (
        "s1",
        0.8,
        {"count": 0.4, "novelty": 0.8},
        6,
    )
    assert seen["alerts"] == 3
    assert (seen["message"], seen["explanation"]) == ("disk 7 melted", "No line like it was seen.")
    assert (unseen["unit"], unseen["score"], unseen["detectors"], unseen["message"]) == ("s2", None, {}, None)
    assert found["unseen"] == 1
    first, second = found["false_alarms"]
    assert (first["unit"], first["score"]) == ("s4", 0.9)
    assert (second["unit"], second["score"], second["detectors"], second["alerts"]) == ("s3", 0.7, {"count": 0.7}, 2)
    assert (second["ts"], second["offset"], second["service"], second["level"]) == (2, 17, "cart", "ERROR")


def test_a_report_stays_small_whatever_the_number_of_anomalies(tmp_path):
    random = np.random.default_rng(0)
    units = tuple(Unit(str(n), n % 3 == 0, 1000 * n, 1000 * n + 999) for n in range(2000))
    data = DataSet(folder=tmp_path, name="x", unit="window", logs=None, units=units)
    fused = [anomaly(int(ts), score=round(random.random(), 5)) for ts in random.integers(0, 2_000_000, 6_000)]
    fused = [one | {"message": "x" * 100_000} for one in fused]
    found = build(data, fused, {"count": fused}, {"count": fused[:5]}, (0, 2_000_000), resamples=20)
    assert len(found["misses"]) == len(found["false_alarms"]) == CASES
    assert len(found["timeline"]["flags"]) <= 3 * BINS
    assert len(found["timeline"]["windows"]) <= 4 * BINS
    assert sum(flag["count"] for flag in found["timeline"]["flags"]) == 6_000
    assert len(orjson.dumps(found)) < 300_000


def test_the_timeline_shows_the_test_part_and_the_strongest_of_what_lies_together(tmp_path):
    units = (Unit("w1", True, 10_000, 11_000), Unit("w2", False, 11_500, 12_000), Unit("w3", True, 500_000, 600_000))
    data = DataSet(folder=tmp_path, name="x", unit="window", logs=None, units=units, train_until_ms=5_000)
    fused = [anomaly(300_000), anomaly(1_000), anomaly(10_200, score=0.5), anomaly(11_900), anomaly(10_300, score=0.8)]
    found = build(data, fused, span_ms=(0, 605_000))["timeline"]
    assert (found["start_ms"], found["end_ms"]) == (5_000, 605_000)
    assert found["flags"] == [
        {"ts": 10_300, "score": 0.8, "kind": "hit", "count": 2},
        {"ts": 11_900, "score": 0.9, "kind": "false", "count": 1},
        {"ts": 300_000, "score": 0.9, "kind": "outside", "count": 1},
    ]
    assert found["windows"] == [
        {"start_ms": 11_500, "end_ms": 12_000, "is_anomalous": False, "is_flagged": True},
        {"start_ms": 500_000, "end_ms": 600_000, "is_anomalous": True, "is_flagged": False},
        {"start_ms": 10_000, "end_ms": 11_000, "is_anomalous": True, "is_flagged": True},
    ]


def test_windows_of_a_kind_less_than_a_bin_apart_are_one(tmp_path):
    units = (Unit("a", True, 0, 500), Unit("b", True, 700, 900), Unit("c", True, 5_000, 600_000))
    data = DataSet(folder=tmp_path, name="x", unit="window", logs=None, units=units)
    windows = build(data, span_ms=(0, 600_000))["timeline"]["windows"]
    assert [(one["start_ms"], one["end_ms"]) for one in windows] == [(0, 900), (5_000, 600_000)]


def test_without_a_span_the_timeline_covers_the_anomalies(tmp_path):
    data = sessions(tmp_path, [True, False])
    found = build(data, [anomaly(50, "s0"), anomaly(80, "s1")])["timeline"]
    assert (found["start_ms"], found["end_ms"], len(found["flags"])) == (50, 80, 2)
    assert build(data)["timeline"] == {"start_ms": None, "end_ms": None, "flags": [], "windows": []}


@pytest.mark.parametrize("labels", [[], [True], [False], [True, True], [False, False], [True, False]])
@pytest.mark.parametrize("flagged", [0, 1])
def test_a_report_is_plain_json_for_any_labels_and_flags(tmp_path, labels, flagged):
    found = [anomaly(session="s0")] * flagged
    made = build(sessions(tmp_path, labels), found, {"count": found}, {"count": []}, (0, HOUR))
    assert orjson.loads(orjson.dumps(made)) == made
    assert made["curves"]["base_rate"] == (sum(labels) / len(labels) if labels else None)
    assert len(made["misses"]) + made["fused"]["true_positives"] == sum(labels)
