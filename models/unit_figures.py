"""From anomalies to the labelled units they fall in, and from these to figures.

```
anomalies ─ Yardstick.verdicts ─→ Verdicts, a row a unit ─ Yardstick.figures ─→ Figures
              a session or a line by its name; a window by time:

                 ├── window 1 ──┤·· grace ··┤
                                      ├── window 2 ──┤·· grace ··┤
              ───┤ 1  1  1  1  1  1  1│2  2  2  2  2  2  2  2  2 ├─── nobody
```

A unit is flagged when an anomaly falls in it, and its score is the highest one in it. Anomalies outside the labelled
units (training part, stretches without a label) count neither for nor against. An alert is false when it falls in a
normal unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import numpy as np

from models.datasets import DataSet, Unit
from models.figures import (
    RESAMPLES,
    Bools,
    Difference,
    Floats,
    Int64,
    Interval,
    auc,
    bootstrap,
    f1_difference,
    f_beta,
    median,
    pr_auc,
    precision_recall_f1,
    wilson,
)

Anomaly = Mapping[str, Any]
Span = tuple[int, int]  # first and last event time, ms

BETAS: Final = (0.5, 2.0)  # precision weighs double, recall weighs double
_DIGITS: Final = 5
_HOUR_MS: Final = 3_600_000
_LEAST_SCORE: Final = 1e-9  # a flagged unit scores above one that is not flagged, even where the anomaly's score is 0


class Errors(TypedDict):
    """Units whose verdict is wrong (false alarms and misses), of all; `interval` is Wilson's, of the share."""

    count: int
    units: int
    share: float | None
    interval: list[float] | None


class Figures(TypedDict):
    """The figures of some anomalies; None where one does not exist.

    Attributes:
        precision, recall, f1, auc, pr_auc: over units.
        f_beta: by beta, `0.5` and `2`.
        false_alarm_ratio: the share of alerts that is false.
        false_positive_rate: the share of normal units that is flagged.
        alerts_per_hour: of the test time, all alerts within labelled units.
        false_alerts_per_normal_hour: false alerts by the time in which one can happen: that of normal windows and their
            grace; the whole test time where units are sessions or lines.
        median_delay_s: from an anomalous window's start to its first alert.
        flagged, true_positives: units, and how many of them are anomalous.
        alerts, false_alerts: anomalies within labelled units, and how many of them in normal ones.
        errors: wrong verdicts.
        intervals: [low, high] by figure, 95 %, bootstrap over units.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    f_beta: dict[str, float | None]
    auc: float | None
    pr_auc: float | None
    false_alarm_ratio: float | None
    false_positive_rate: float | None
    alerts_per_hour: float | None
    false_alerts_per_normal_hour: float | None
    median_delay_s: float | None
    flagged: int
    true_positives: int
    alerts: int
    false_alerts: int
    errors: Errors
    intervals: dict[str, list[float] | None]


@dataclass(frozen=True, slots=True)
class WindowMap:
    """To which window each moment belongs: `owner[i]` from `edges[i]` until before `edges[i + 1]`, -1 for nobody.

    Shapes: `edges int64[E]` (ms, rising), `owner int64[E]`; nobody owns the time after the last edge.
    """

    edges: Int64
    owner: Int64

    @classmethod
    def of(cls, units: Sequence[Unit], grace_ms: int) -> WindowMap:
        """A moment is of the first window that holds it, ends included; else of the last to end within its grace."""
        spans = [
            (number, unit.start_ms, unit.end_ms + 1, unit.end_ms + 1 + grace_ms)
            for number, unit in enumerate(units)
            if unit.start_ms is not None and unit.end_ms is not None
        ]
        moments = np.array([span[1:] for span in spans], np.int64).reshape(-1, 3)
        edges, places = np.unique(moments, return_inverse=True)
        owner = np.full(len(edges), -1)
        placed = [(span[0], *row) for span, row in zip(spans, places.reshape(-1, 3).tolist(), strict=True)]
        # What is painted later covers what was painted before.
        for number, _, end, over in sorted(placed, key=lambda row: (row[2], -row[0])):
            owner[end:over] = number
        for number, start, end, _ in reversed(placed):
            owner[start:end] = number
        return cls(edges, owner)

    def at(self, ts: Int64) -> Int64:
        """The window of each moment, -1 for none.

        Shapes: int64[N] → int64[N].
        """
        # A moment before the first edge has the place -1, which is the last edge: nobody's.
        return (
            self.owner[np.searchsorted(self.edges, ts, side="right") - 1] if len(self.edges) else np.full(len(ts), -1)
        )

    def owned_ms(self, is_wanted: Bools) -> int:
        """How long the wanted windows own time.

        Shapes: bool[U].
        """
        wanted = np.append(is_wanted, False)[self.owner]  # of owner -1 the last: not wanted
        return int(np.diff(self.edges)[wanted[:-1]].sum())


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What some anomalies say of each labelled unit.

    Shapes: [U].

    Attributes:
        is_anomalous: the label.
        alerts: anomalies in the unit.
        score: the highest of their scores; 0 without any.
        first_ms: event time of the first of them; 0 without any.
        strongest: which anomaly has that score, the first of equals; -1 without any.
        unit_of: the unit of each anomaly, -1 for none; int64[A].
    """

    is_anomalous: Bools
    alerts: Int64
    score: Floats
    first_ms: Int64
    strongest: Int64
    unit_of: Int64

    @property
    def is_flagged(self) -> Bools:
        """Whether an anomaly falls in the unit."""
        return self.alerts > 0

    @property
    def false_alerts(self) -> int:
        """Anomalies in normal units."""
        return int(self.alerts[~self.is_anomalous].sum())


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A data set's labels, made ready to measure many lists of anomalies.

    Units: `test_hours` is the time of the data without its training part, `normal_hours` that of the normal windows and
    their grace, where units are windows, else all of it; None where unknown.
    """

    dataset: DataSet
    is_anomalous: Bools
    at: Mapping[str, int]  # by the name of a session or line
    windows: WindowMap | None
    test_hours: float | None
    normal_hours: float | None

    @classmethod
    def of(cls, dataset: DataSet, span_ms: Span | None) -> Yardstick:
        """Of a data set.

        Args:
            dataset: with labels; without any, no figure exists.
            span_ms: first and last event time of the data; without it, figures by the hour do not exist.
        """
        is_anomalous = np.array([unit.is_anomalous for unit in dataset.units], np.bool_)
        test_hours = _test_hours(dataset, span_ms)
        if dataset.unit != "window":
            at = {unit.key: number for number, unit in enumerate(dataset.units)}
            return cls(dataset, is_anomalous, at, None, test_hours, test_hours)
        windows = WindowMap.of(dataset.units, dataset.grace_ms)
        normal_hours = windows.owned_ms(~is_anomalous) / _HOUR_MS or None
        return cls(dataset, is_anomalous, {}, windows, test_hours, normal_hours)

    def unit_of(self, anomalies: Sequence[Anomaly]) -> Int64:
        """The number of the unit in which each anomaly falls, -1 for none.

        Shapes: int64[A].
        """
        if self.windows is not None:
            return self.windows.at(_times(anomalies))
        if self.dataset.unit == "session":
            keys = (anomaly["session"] for anomaly in anomalies)
        else:
            keys = (anomaly["source"]["offset"] for anomaly in anomalies)
        return np.fromiter((-1 if key is None else self.at.get(str(key), -1) for key in keys), np.int64, len(anomalies))

    def verdicts(self, anomalies: Sequence[Anomaly], detector: str | None = None) -> Verdicts:
        """What the anomalies say of each unit.

        Args:
            anomalies: those that count.
            detector: whose vote is the score; None, or no vote of its own, takes the anomaly's.
        """
        count = len(self.is_anomalous)
        unit_of = self.unit_of(anomalies)
        inside = np.flatnonzero(unit_of >= 0)
        score = np.fromiter((score_of(anomaly, detector) for anomaly in anomalies), np.float64, len(anomalies))
        ts = _times(anomalies)
        # By unit, then the highest score, then the first given: the head of each unit's group is its strongest.
        ordered = inside[np.lexsort((inside, -score[inside], unit_of[inside]))]
        units, heads = np.unique(unit_of[ordered], return_index=True)
        strongest = np.full(count, -1)
        strongest[units] = ordered[heads]
        highest = np.zeros(count)
        highest[units] = np.maximum(score[ordered[heads]], _LEAST_SCORE)
        first_ms = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first_ms, unit_of[inside], ts[inside])
        alerts = np.bincount(unit_of[inside], minlength=count)
        first_ms[alerts == 0] = 0
        return Verdicts(self.is_anomalous, alerts, highest, first_ms, strongest, unit_of)

    def figures(self, found: Verdicts, *, seed: int = 0, resamples: int = RESAMPLES) -> Figures:
        """The figures of some verdicts.

        Args:
            found: of this yardstick.
            seed: of the bootstrap.
            resamples: of the bootstrap; 0 gives no intervals.
        """
        label, flag = found.is_anomalous, found.is_flagged
        precision, recall, f1 = precision_recall_f1(label, flag)
        normal, wrong = int((~label).sum()), int((label != flag).sum())
        alerts = int(found.alerts.sum())
        intervals = bootstrap(label, flag, found.score, seed=seed, resamples=resamples)
        return {
            "precision": _rounded(precision),
            "recall": _rounded(recall),
            "f1": _rounded(f1),
            "f_beta": {f"{beta:g}": _rounded(f_beta(label, flag, beta)) for beta in BETAS},
            "auc": _rounded(auc(label, found.score)),
            "pr_auc": _rounded(pr_auc(label, found.score)),
            "false_alarm_ratio": _ratio(found.false_alerts, alerts),
            "false_positive_rate": _ratio(int((flag & ~label).sum()), normal),
            "alerts_per_hour": _ratio(alerts, self.test_hours),
            "false_alerts_per_normal_hour": _ratio(found.false_alerts, self.normal_hours),
            "median_delay_s": _rounded(median(self._delays_s(found))),
            "flagged": int(flag.sum()),
            "true_positives": int((label & flag).sum()),
            "alerts": alerts,
            "false_alerts": found.false_alerts,
            "errors": {
                "count": wrong,
                "units": len(label),
                "share": _ratio(wrong, len(label)),
                "interval": _listed(wilson(wrong, len(label))),
            },
            "intervals": {name: _listed(interval) for name, interval in intervals.items()},
        }

    def _delays_s(self, found: Verdicts) -> list[float]:
        hits = np.flatnonzero(found.is_anomalous & found.is_flagged).tolist()
        starts = ((at, self.dataset.units[at].start_ms) for at in hits)
        return [max(0, int(found.first_ms[at]) - start) / 1000 for at, start in starts if start is not None]


def figures(
    dataset: DataSet,
    anomalies: Sequence[Anomaly],
    span_ms: Span | None,
    detector: str | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figures:
    """The figures of one list of anomalies; many over the same data set share a `Yardstick`."""
    yardstick = Yardstick.of(dataset, span_ms)
    return yardstick.figures(yardstick.verdicts(anomalies, detector), seed=seed, resamples=resamples)


def compare(found: Verdicts, before: Verdicts, *, seed: int = 0, resamples: int = RESAMPLES) -> Difference | None:
    """The F1 of one's flags less that of the other's, over the same units, with a paired interval."""
    return f1_difference(found.is_anomalous, found.is_flagged, before.is_flagged, seed=seed, resamples=resamples)


def score_of(anomaly: Anomaly, detector: str | None = None) -> float:
    """The score of an anomaly: a detector's vote, or without one its own.

    >>> anomaly = {"score": 0.9, "detectors": {"count": 0.4, "novelty": None}}
    >>> score_of(anomaly), score_of(anomaly, "count"), score_of(anomaly, "novelty")
    (0.9, 0.4, 0.9)
    """
    vote = None if detector is None else anomaly["detectors"].get(detector)
    return float(anomaly["score"] if vote is None else vote)


def _times(anomalies: Sequence[Anomaly]) -> Int64:
    return np.fromiter((anomaly["ts"] for anomaly in anomalies), np.int64, len(anomalies))


def _test_hours(dataset: DataSet, span_ms: Span | None) -> float | None:
    """The hours from the first to the last line, less those in which lines may be trained on."""
    if span_ms is None:
        return None
    start, end = span_ms
    if dataset.train_until_ms is not None:
        start = max(start, dataset.train_until_ms)
    training = 0
    reached = start
    for begin, stop in sorted(dataset.train_windows or ()):  # they may overlap
        begin, stop = max(begin, reached), min(stop, end)
        if stop > begin:
            training, reached = training + stop - begin, stop
    return (end - start - training) / _HOUR_MS if end - start > training else None


def _ratio(part: float, whole: float | None) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(end, _DIGITS) for end in interval]
