"""Evaluation: anomalies against the labels of a data set, which neither training nor scoring ever sees.

```
data set ─→ lines ─ core or job ─→ anomalies ─ fall in units (sessions, windows, lines) ─→ figures by detector, and fused
```
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson

from models.artefact import Artefact
from models.batch import BatchParams
from models.datasets import DataSet, Unit, hide_level, read_lines, to_batches
from models.errors import DataSetError, SettingsError
from models.figures import auc, median, pr_auc, precision_recall_f1
from models.packing import unpack
from models.parsing import ParseParams, parse
from models.shard import Shard, ShardParams

Anomaly = Mapping[str, Any]
Score = Callable[[Iterable[bytes]], Iterable[Anomaly]]  # what the core and the job are to an evaluation
Progress = Callable[[int, int], None]  # (lines, anomalies) so far

DETECTORS: Final = ("deeplog",)
_HOUR_MS: Final = 3_600_000
_ENDS: Final = 2_000  # lines at either end of the file that its span is read from


@dataclass
class Passage:
    """The lines on their way to the scorer: counted, and the two ends kept to tell the span of time.

    State: `_ENDS` lines at either end.
    """

    lines: Iterable[bytes]
    count: int = 0
    _first: list[bytes] = field(default_factory=list)
    _last: deque[bytes] = field(default_factory=lambda: deque(maxlen=_ENDS))

    def __iter__(self) -> Iterator[bytes]:
        for line in self.lines:
            if self.count < _ENDS:
                self._first.append(line)
            self.count += 1
            self._last.append(line)
            yield line

    def span_ms(self, params: ParseParams) -> tuple[int, int] | None:
        """The first and last event time, of the lines at the two ends; None without lines."""
        times = [parse(raw, params)[0].ts for raw in to_batches(chain(self._first, self._last))]
        stamped = np.concatenate(times) if times else np.zeros(0, np.int64)
        stamped = stamped[stamped > 0]  # a line without a time has none here, where no broker gives it one
        return (int(stamped.min()), int(stamped.max())) if len(stamped) else None


def score_through_core(
    lines: Iterable[bytes],
    models: Mapping[str, Artefact],
    batching: BatchParams,
    shards: ShardParams,
    progress: Progress = lambda lines, anomalies: None,
) -> Iterator[Anomaly]:
    """The anomalies that the job would find, by the job's own core, without Flink.

    Args:
        lines: in source order; a line's number, from 0, is its offset.
        models: by service, and `default`.
        batching: parameters of the core before the key.
        shards: parameters of the core behind it.
        progress: called after each batch.
    """
    batcher = batching.build()
    states: dict[int, Shard] = {}
    seen = found = 0
    for raw in to_batches(lines, topic="evaluate"):
        for shard, packed in batcher.step(raw):
            if shard not in states:
                states[shard] = shards.build(models)
            for _, anomaly in states[shard].step(unpack(packed)).anomalies:
                found += 1
                yield orjson.loads(anomaly)
        seen += len(raw.values)
        progress(seen, found)


def log_lines(dataset: DataSet, *, is_level_hidden: bool = False) -> Iterator[bytes]:
    """The lines of a data set, with their levels or without.

    Raises: DataSetError if the data set has no log file of its own (unit template).
    """
    if dataset.logs is None:
        raise DataSetError(f"{dataset.folder} has unit {dataset.unit} and no log file to score.")
    lines = read_lines(dataset.logs)
    return map(hide_level, lines) if is_level_hidden else lines


def evaluate(
    dataset: DataSet,
    score: Score,
    *,
    detectors: Sequence[str] = DETECTORS,
    is_level_hidden: bool = False,
    keep: Callable[[Anomaly], None] = lambda anomaly: None,
) -> dict[str, Any]:
    """Score a data set and compare with its labels; gives the report.

    Args:
        dataset: with labels or without; without, the report has counts only.
        score: the core or the job.
        detectors: whose verdicts count.
        is_level_hidden: blank the levels first.
        keep: is given every anomaly.

    Raises: SettingsError for a detector that does not exist.
    """
    unknown = sorted(set(detectors) - set(DETECTORS))
    if unknown or not detectors:
        raise SettingsError(
            f"no such detector: {', '.join(unknown) or '(none given)'}; choose from {', '.join(DETECTORS)}."
        )
    lines = Passage(log_lines(dataset, is_level_hidden=is_level_hidden))
    anomalies = []
    started = time.monotonic()
    for anomaly in score(lines):
        keep(anomaly)
        if any(anomaly["detectors"].get(name) is not None for name in detectors):
            anomalies.append(anomaly)
    seconds = time.monotonic() - started
    report = {
        "dataset": dataset.name,
        "data_sha256": dataset.sha256(),
        "unit": dataset.unit,
        "units": len(dataset.units),
        "anomalous": sum(unit.is_anomalous for unit in dataset.units),
        "lines": lines.count,
        "anomalies": len(anomalies),
        "lines_per_s": round(lines.count / max(seconds, 1e-9), 1),
        "hide_levels": is_level_hidden,
    }
    span = lines.span_ms(ParseParams())
    if not dataset.units:
        return report | {"detectors": {}, "fused": None, "by_service": Counter(str(a["service"]) for a in anomalies)}
    by_detector = {
        name: figures(dataset, [a for a in anomalies if a["detectors"].get(name) is not None], span, name)
        for name in detectors
    }
    return report | {"detectors": by_detector, "fused": figures(dataset, anomalies, span)}


def figures(
    dataset: DataSet, anomalies: Sequence[Anomaly], span_ms: tuple[int, int] | None, detector: str | None = None
) -> dict[str, float | int | None]:
    """The figures of some anomalies against the labelled units.

    A unit is flagged when an anomaly falls in it; its score is the highest one in it. Anomalies outside the labelled units (training
    part, stretches without a label) count neither for nor against. An alert is false when it falls in a normal unit.

    Args:
        dataset: with labels.
        anomalies: those that count.
        span_ms: first and last event time of the data.
        detector: whose score counts; None takes the fused one.
    """
    units = dataset.units
    place = _placing(dataset)
    score = np.zeros(len(units))
    first_ms: list[int | None] = [None] * len(units)
    alerts = false_alerts = 0
    for anomaly in anomalies:
        at = place(anomaly)
        if at is None:
            continue
        value = anomaly["score"] if detector is None else anomaly["detectors"][detector]
        score[at] = max(score[at], value, 1e-9)
        when = int(anomaly["ts"])
        first_ms[at] = min(when, first_ms[at] if first_ms[at] is not None else when)  # type: ignore[type-var]
        alerts += 1
        false_alerts += not units[at].is_anomalous
    is_anomalous = np.array([unit.is_anomalous for unit in units])
    precision, recall, f1 = precision_recall_f1(is_anomalous, score > 0)
    delays = [
        max(0, first - unit.start_ms) / 1000
        for unit, first in zip(units, first_ms, strict=True)
        if unit.is_anomalous and unit.start_ms is not None and first is not None
    ]
    hours = _test_hours(dataset, span_ms)
    return {
        "precision": _rounded(precision),
        "recall": _rounded(recall),
        "f1": _rounded(f1),
        "auc": _rounded(auc(is_anomalous, score)),
        "pr_auc": _rounded(pr_auc(is_anomalous, score)),
        "false_alarm_ratio": _rounded(false_alerts / alerts if alerts else None),
        "alerts_per_hour": _rounded(alerts / hours if hours else None),
        "median_delay_s": _rounded(median(delays)),
        "flagged": int((score > 0).sum()),
        "true_positives": int((is_anomalous & (score > 0)).sum()),
        "alerts": alerts,
    }


def _placing(dataset: DataSet) -> Callable[[Anomaly], int | None]:
    """From an anomaly to the number of its unit."""
    if dataset.unit == "window":
        return _window_placing(dataset.units, dataset.grace_ms)
    at = {unit.key: number for number, unit in enumerate(dataset.units)}
    if dataset.unit == "session":
        return lambda anomaly: at.get(str(anomaly["session"]))
    return lambda anomaly: at.get(str(anomaly["source"]["offset"]))


def _window_placing(units: Sequence[Unit], grace_ms: int) -> Callable[[Anomaly], int | None]:
    """The window that holds the anomaly's time; failing that, the one that ended last, within its grace."""
    start = np.array([unit.start_ms for unit in units], np.int64)
    end = np.array([unit.end_ms for unit in units], np.int64)

    def place(anomaly: Anomaly) -> int | None:
        ts = int(anomaly["ts"])
        inside = np.flatnonzero((start <= ts) & (ts <= end))
        if len(inside):
            return int(inside[0])
        near = np.flatnonzero((end < ts) & (ts <= end + grace_ms))
        return int(near[end[near].argmax()]) if len(near) else None

    return place


def _test_hours(dataset: DataSet, span_ms: tuple[int, int] | None) -> float | None:
    if span_ms is None:
        return None
    start = span_ms[0] if dataset.train_until_ms is None else max(span_ms[0], dataset.train_until_ms)
    return (span_ms[1] - start) / _HOUR_MS if span_ms[1] > start else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
