"""Evaluation: anomalies against the labels of a data set, which neither training nor scoring ever sees.

```
data set ─→ lines ─ core or job ─→ anomalies ─→ report.py: units, figures, curves
                     │ core: what each detector alone, and all but each, would have told (opinions.py)
```
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson

from models.artefact import Artefact
from models.batch import BatchParams
from models.datasets import DataSet, hide_level, read_lines, to_batches
from models.detectors.registry import REGISTRY
from models.errors import DataSetError
from models.opinions import Opinions, choices, split
from models.packing import unpack
from models.parsing import ParseParams, parse
from models.report import build_report
from models.shard import Shard, ShardParams

Anomaly = Mapping[str, Any]
Score = Callable[[Iterable[bytes]], Iterable[Anomaly]]  # what the core and the job are to an evaluation
Progress = Callable[[int, int], None]  # (lines, anomalies) so far

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


def opinions_of(models: Mapping[str, Artefact], shards: ShardParams) -> Opinions:
    """To be heard while the core scores: each detector that judges every line alone, and all but each."""
    found = dict.fromkeys(name for artefact in models.values() for name in artefact.calibration.names)
    names = [name for name in found if not REGISTRY[name].is_heavy]
    asked = shards.fusion.detectors
    return Opinions(shards.fusion, choices([name for name in names if asked is None or name in asked]))


def score_through_core(
    lines: Iterable[bytes],
    models: Mapping[str, Artefact],
    batching: BatchParams,
    shards: ShardParams,
    progress: Progress = lambda lines, anomalies: None,
    opinions: Opinions | None = None,
) -> Iterator[Anomaly]:
    """The anomalies that the job would find, by the job's own core, without Flink.

    Args:
        lines: in source order; a line's number, from 0, is its offset.
        models: by service, and `default`.
        batching: parameters of the core before the key.
        shards: parameters of the core behind it.
        progress: called after each batch.
        opinions: hears what each detector has to say.
    """
    batcher = batching.build()
    states: dict[int, Shard] = {}
    seen = found = 0
    for raw in to_batches(lines, topic="evaluate"):
        for shard, packed in batcher.step(raw):
            if shard not in states:
                states[shard] = shards.build(models)
                states[shard].listen = None if opinions is None else opinions.listen
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
    opinions: Opinions | None = None,
    is_level_hidden: bool = False,
    keep: Callable[[Anomaly], None] = lambda anomaly: None,
    versions: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a data set and compare with its labels; gives the report.

    Args:
        dataset: with labels or without; without, the report has counts only.
        score: the core or the job.
        opinions: what the core's detectors said; None gives the fused figures only.
        is_level_hidden: blank the levels first.
        keep: is given every anomaly.
        versions: of the models, by service.
        seed: of the bootstrap.
    """
    lines = Passage(log_lines(dataset, is_level_hidden=is_level_hidden))
    anomalies = []
    started = time.monotonic()
    for anomaly in score(lines):
        keep(anomaly)
        anomalies.append(anomaly)
    seconds = time.monotonic() - started
    about = {
        "lines": lines.count,
        "lines_per_s": round(lines.count / max(seconds, 1e-9), 1),
        "hide_levels": is_level_hidden,
    }
    if not dataset.units:
        return {
            "dataset": dataset.name,
            "data_sha256": dataset.sha256(),
            "unit": dataset.unit,
            "units": 0,
            "anomalous": 0,
            "anomalies": len(anomalies),
            "detectors": {},
            "fused": None,
            "by_service": Counter(str(anomaly["service"]) for anomaly in anomalies),
            **about,
        }
    alone, without = split(opinions.anomalies) if opinions is not None else ({}, {})
    report = build_report(
        dataset,
        anomalies,
        alone,
        without,
        lines.span_ms(ParseParams()),
        data_sha256=dataset.sha256(),
        versions=versions,
        seed=seed,
    )
    return {**report, **about}
