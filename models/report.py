"""The report of an evaluation: everything its page shows, as plain data that is also its JSON.

```
fused ─────────┐                ┌─ figures, of each
by_detector ───┼─ Yardstick ─→ ─┼─ curves, timeline
without ───────┘                └─ misses, false alarms
```

Its size is bounded whatever the number of anomalies: curves and timeline are thinned to what a picture can show, and
lists of cases are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NotRequired, TypedDict

import numpy as np

from models.datasets import DataSet
from models.figures import RESAMPLES, Difference, Floats, Int64, pr_points, roc_points
from models.unit_figures import Anomaly, Figures, Span, Verdicts, Yardstick, compare, score_of

FUSED: Final = "fused"
CASES: Final = 20  # misses and false alarms that are listed
BINS: Final = 600  # of the timeline, which is drawn about 750 pixels wide
_CURVE_BINS: Final = 120  # of a curve, which is drawn about 300 pixels wide
_TEXT: Final = 500  # characters of a message, template or explanation

Points = list[list[float]]  # [[x, y], …]


class Split(TypedDict):
    """What was trained on, and how windows count; None where it does not apply."""

    train_until_ms: int | None
    train_sessions: int | None
    train_windows: int | None
    grace_ms: int
    test_hours: float | None
    normal_hours: float | None


class Change(TypedDict):
    """A difference of two F1 over the same units, and its 95 % interval by paired bootstrap."""

    value: float
    low: float
    high: float


class Ablation(TypedDict):
    """The fused verdict without one detector; `f1_change` is its F1 less the whole's; below 0, the detector helps."""

    figures: Figures
    f1_change: Change | None


class Curves(TypedDict):
    """By detector, the fused one first: `roc` is [false positive rate, recall], `pr` [recall, precision].

    `base_rate` is the anomalous share of the units, which is the precision of chance.
    """

    roc: dict[str, Points]
    pr: dict[str, Points]
    base_rate: float | None


Kind = Literal["hit", "false", "outside"]  # in an anomalous unit, in a normal one, in none


class Flag(TypedDict):
    """The strongest fused anomaly of its kind within one bin of time, and how many it stands for."""

    ts: int
    score: float
    kind: Kind
    count: int


class Stretch(TypedDict):
    """Windows of the same label and verdict, less than a bin apart."""

    start_ms: int
    end_ms: int
    is_anomalous: bool
    is_flagged: bool


class Timeline(TypedDict):
    """The test part over time; None where there is no time."""

    start_ms: int | None
    end_ms: int | None
    flags: list[Flag]
    windows: list[Stretch]


class Case(TypedDict):
    """A unit with a wrong verdict, and its strongest anomaly: the fused one in a false alarm, any detector's in a miss.

    `detectors` are the votes, `alerts` counts the anomalies in the unit. Without an anomaly the rest is None.
    """

    unit: str
    start_ms: int | None
    end_ms: int | None
    alerts: int
    score: float | None
    detectors: dict[str, float]
    ts: int | None
    offset: int | None
    service: str | None
    session: str | None
    level: str | None
    template_id: str | None
    template: str | None
    message: str | None
    explanation: str | None


class Report(TypedDict):
    """The whole report. What is not required is added by whoever ran the evaluation, and shown where it is there.

    Attributes:
        versions: of the program, its models and what else there is to say.
        units, anomalous: labelled units of the test part.
        anomalies: that the fused verdict gave, within units or not.
        fusion_gain: by detector, F1 of the fused verdict less that of the detector alone.
        misses: anomalous units not flagged: those that a single detector saw first, the strongest first.
        unseen: misses that no detector saw.
        false_alarms: normal units flagged, the highest score first.
    """

    dataset: str
    data_sha256: str
    unit: str
    units: int
    anomalous: int
    anomalies: int
    split: Split
    versions: dict[str, str]
    seed: int
    resamples: int
    fused: Figures
    detectors: dict[str, Figures]
    fusion_gain: dict[str, Change | None]
    ablation: dict[str, Ablation]
    curves: Curves
    timeline: Timeline
    misses: list[Case]
    unseen: int
    false_alarms: list[Case]
    lines: NotRequired[int]
    lines_per_s: NotRequired[float]
    hide_levels: NotRequired[bool]
    through: NotRequired[str]
    models: NotRequired[dict[str, str]]


def build_report(
    dataset: DataSet,
    fused: Sequence[Anomaly],
    by_detector: Mapping[str, Sequence[Anomaly]],
    without: Mapping[str, Sequence[Anomaly]],
    span_ms: Span | None,
    *,
    data_sha256: str,
    versions: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Report:
    """The report of one pass over a labelled data set.

    Args:
        dataset: with its labels.
        fused: anomalies of the fused verdict.
        by_detector: anomalies of each detector alone; its vote is their score, or without a vote `score`.
        without: anomalies of the fused verdict that leaves one detector out, by that detector.
        span_ms: first and last event time of the data, None where there is none.
        data_sha256: of the data.
        versions: shown as they are.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    yardstick = Yardstick.of(dataset, span_ms)
    whole = yardstick.verdicts(fused)
    alone = {name: yardstick.verdicts(found, name) for name, found in by_detector.items()}
    rest = {name: yardstick.verdicts(found) for name, found in without.items()}

    def figures(found: Verdicts) -> Figures:
        return yardstick.figures(found, seed=seed, resamples=resamples)

    def change(found: Verdicts, before: Verdicts) -> Change | None:
        return _change(compare(found, before, seed=seed, resamples=resamples))

    misses = np.flatnonzero(whole.is_anomalous & ~whole.is_flagged)
    cases = [_miss(dataset, by_detector, alone, int(at)) for at in misses]
    cases.sort(key=lambda case: -(case["score"] or 0.0))
    false = np.flatnonzero(~whole.is_anomalous & whole.is_flagged)
    false = false[np.argsort(-whole.score[false], kind="stable")][:CASES]
    return {
        "dataset": dataset.name,
        "data_sha256": data_sha256,
        "unit": dataset.unit,
        "units": len(dataset.units),
        "anomalous": int(whole.is_anomalous.sum()),
        "anomalies": len(fused),
        "split": _split(yardstick),
        "versions": dict(versions or {}),
        "seed": seed,
        "resamples": resamples,
        "fused": figures(whole),
        "detectors": {name: figures(found) for name, found in alone.items()},
        "fusion_gain": {name: change(whole, found) for name, found in alone.items()},
        "ablation": {
            name: {"figures": figures(found), "f1_change": change(found, whole)} for name, found in rest.items()
        },
        "curves": _curves({FUSED: whole, **alone}),
        "timeline": _timeline(dataset, fused, whole, span_ms),
        "misses": cases[:CASES],
        "unseen": sum(case["score"] is None for case in cases),
        "false_alarms": [_false_alarm(dataset, fused, whole, int(at)) for at in false],
    }


def _split(yardstick: Yardstick) -> Split:
    dataset = yardstick.dataset
    return {
        "train_until_ms": dataset.train_until_ms,
        "train_sessions": None if dataset.train_sessions is None else len(dataset.train_sessions),
        "train_windows": None if dataset.train_windows is None else len(dataset.train_windows),
        "grace_ms": dataset.grace_ms,
        "test_hours": yardstick.test_hours,
        "normal_hours": yardstick.normal_hours,
    }


def _change(difference: Difference | None) -> Change | None:
    if difference is None:
        return None
    return {
        "value": round(difference.value, 5),
        "low": round(difference.low, 5),
        "high": round(difference.high, 5),
    }


# -- pictures --------------------------------------------------------------------------------------------------------


def _curves(found: Mapping[str, Verdicts]) -> Curves:
    labels = found[FUSED].is_anomalous
    return {
        "roc": {name: thinned(*roc_points(one.is_anomalous, one.score)) for name, one in found.items()},
        "pr": {name: thinned(*pr_points(one.is_anomalous, one.score)) for name, one in found.items()},
        "base_rate": round(float(labels.mean()), 5) if len(labels) else None,
    }


def thinned(x: Floats, y: Floats, bins: int = _CURVE_BINS) -> Points:
    """At most four points in each of `bins` stretches of x: first, lowest, highest and last. The line looks the same.

    Shapes: `x float64[N]` (0–1, rising), `y float64[N]`.

    >>> thinned(np.array([0.0, 0.1, 0.2, 1.0]), np.array([0.0, 0.5, 0.4, 1.0]), bins=1)
    [[0.0, 0.0], [1.0, 1.0]]

    Source: Jugel et al., M4: A Visualization-Oriented Time Series Data Aggregation (VLDB 2014).
    """
    place = np.minimum((x * bins).astype(np.int64), bins - 1)
    by_height = np.lexsort((y, place))
    heads = np.flatnonzero(np.diff(place, prepend=-1))  # x rises: a stretch's points lie together in both orders
    tails = np.append(heads[1:], len(x))[: len(heads)] - 1
    kept = np.unique(np.concatenate([heads, tails, by_height[heads], by_height[tails]]))
    return [[round(float(x[at]), 4), round(float(y[at]), 4)] for at in kept]


def _timeline(dataset: DataSet, fused: Sequence[Anomaly], found: Verdicts, span_ms: Span | None) -> Timeline:
    ts = np.array([anomaly["ts"] for anomaly in fused], np.int64)
    starts = np.array([-1 if unit.start_ms is None else unit.start_ms for unit in dataset.units], np.int64)
    ends = np.array([-1 if unit.end_ms is None else unit.end_ms for unit in dataset.units], np.int64)
    timed = (starts >= 0) & (ends >= starts)
    times = np.concatenate([starts[timed], ends[timed], ts if span_ms is None else np.array(span_ms, np.int64)])
    if not len(times):
        return {"start_ms": None, "end_ms": None, "flags": [], "windows": []}
    start, end = int(times.min()), int(times.max())
    if dataset.train_until_ms is not None and dataset.train_until_ms < end:
        start = max(start, dataset.train_until_ms)
    bin_ms = max(1, -(-(end - start + 1) // BINS))
    return {
        "start_ms": start,
        "end_ms": end,
        "flags": _flags(fused, found, ts, start, end, bin_ms),
        "windows": [
            {"start_ms": begin, "end_ms": stop, "is_anomalous": is_anomalous, "is_flagged": is_flagged}
            for is_anomalous in (False, True)
            for is_flagged in (False, True)
            for begin, stop in _merged(
                starts[timed & (found.is_anomalous == is_anomalous) & (found.is_flagged == is_flagged)],
                ends[timed & (found.is_anomalous == is_anomalous) & (found.is_flagged == is_flagged)],
                bin_ms,
            )
        ],
    }


def _flags(fused: Sequence[Anomaly], found: Verdicts, ts: Int64, start: int, end: int, bin_ms: int) -> list[Flag]:
    """The anomalies from start to end, thinned: the strongest of each kind in each bin."""
    kinds: tuple[Kind, Kind, Kind] = ("false", "hit", "outside")
    kind = np.append(found.is_anomalous.astype(np.int64), 2)[found.unit_of]  # of unit -1 the last
    score = np.array([score_of(anomaly) for anomaly in fused], np.float64)
    inside = np.flatnonzero((ts >= start) & (ts <= end))
    group = (ts[inside] - start) // bin_ms * len(kinds) + kind[inside]
    ordered = inside[np.lexsort((inside, -score[inside], group))]
    _, heads, counts = np.unique(np.sort(group), return_index=True, return_counts=True)
    return [
        {"ts": int(ts[at]), "score": round(float(score[at]), 5), "kind": kinds[kind[at]], "count": int(count)}
        for at, count in zip(ordered[heads], counts, strict=True)
    ]


def _merged(starts: Int64, ends: Int64, gap_ms: int) -> list[tuple[int, int]]:
    """Stretches of time, those less than a gap apart as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(zip(starts.tolist(), ends.tolist(), strict=True)):
        if merged and start - merged[-1][1] < gap_ms:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


# -- cases -----------------------------------------------------------------------------------------------------------


def _miss(
    dataset: DataSet, by_detector: Mapping[str, Sequence[Anomaly]], alone: Mapping[str, Verdicts], at: int
) -> Case:
    seen = {name: round(float(found.score[at]), 5) for name, found in alone.items() if found.alerts[at]}
    alerts = sum(int(found.alerts[at]) for found in alone.values())
    if not seen:
        return _case(dataset, at, None, None, {}, alerts)
    best = max(seen, key=seen.__getitem__)
    return _case(dataset, at, by_detector[best][alone[best].strongest[at]], seen[best], seen, alerts)


def _false_alarm(dataset: DataSet, fused: Sequence[Anomaly], found: Verdicts, at: int) -> Case:
    anomaly = fused[found.strongest[at]]
    votes = {str(name): float(vote) for name, vote in anomaly["detectors"].items() if vote is not None}
    return _case(dataset, at, anomaly, score_of(anomaly), votes, int(found.alerts[at]))


def _case(
    dataset: DataSet,
    at: int,
    anomaly: Anomaly | None,
    score: float | None,
    votes: dict[str, float],
    alerts: int,
) -> Case:
    unit, shown = dataset.units[at], anomaly or {}
    return {
        "unit": unit.key,
        "start_ms": unit.start_ms,
        "end_ms": unit.end_ms,
        "alerts": alerts,
        "score": score,
        "detectors": votes,
        "ts": shown.get("ts"),
        "offset": shown.get("source", {}).get("offset"),
        "service": shown.get("service"),
        "session": shown.get("session"),
        "level": shown.get("level"),
        "template_id": shown.get("template_id"),
        "template": _cut(shown.get("template")),
        "message": _cut(shown.get("message")),
        "explanation": _cut(shown.get("explanation")),
    }


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _TEXT else text[: _TEXT - 1] + "…"
