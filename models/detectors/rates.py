"""Rates of templates: what is learned of them, how surprising a count is, and counts by minute up to any minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import Corpus, Int64
from models.detectors.rows import Places
from models.detectors.runs import begins

Float64 = npt.NDArray[np.float64]

MINUTE_MS: Final = 60_000
RING: Final = 70  # minutes kept: ten at present, the hour before these
MOST: Final = 65_535  # lines a minute; counts stop here
_WINDOW_MS: Final = 10 * MINUTE_MS
_STEADY: Final = 20  # arrivals needed, and how many mean gaps the longest may last: in a Poisson stream of a million it lasts about 14
_DISPERSION, _PRIOR_WINDOWS = 0.5, 2  # assumed before anything is seen, and how many windows that weighs
_LEAST_DISPERSION: Final = 0.05  # no log is a Poisson process


@dataclass(frozen=True, slots=True)
class Rates:
    """What was learned of each class; class 0 stands for all lines of a service.

    Shapes: `per_minute float64[C]` mean rate in the services that have the class (0: never seen), `dispersion float64[C]`, `longest_ms
    int64[C]` the longest time without a line of it (0: it comes in no steady way).
    """

    per_minute: Float64
    dispersion: Float64
    longest_ms: Int64


def surprise(count: npt.NDArray[np.number[Any]], mean: Float64, dispersion: Float64) -> Float64:
    """−log10 of a bound on the probability of a count at least as far from its mean, on its side of it.

    The counts are negative binomial with variance mean + dispersion · mean²; the bound is Chernoff's, a closed form that grows without
    end where the probability itself would underflow.

    Source: Legéndy and Salcman, Bursts and Recurrences of Bursts in the Spike Trains of Spontaneously Active Striate Cortex Neurons
    (Journal of Neurophysiology, 1985) for the surprise; Chernoff, A Measure of Asymptotic Efficiency … (1952), theorem 1.

    >>> surprise(np.array([0, 20, 200]), np.array([20.0, 20.0, 20.0]), np.array([0.05, 0.05, 0.05])).round(2).tolist()
    [6.02, 0.0, 37.12]
    """
    size = 1 / dispersion
    excess = count * np.log(np.maximum(count, 1) / mean)  # 0 for none
    digits: Float64 = (excess - (count + size) * np.log((count + size) / (mean + size))) / np.log(10)
    return digits


def learn_rates(corpus: Corpus) -> tuple[Rates, float]:
    """The rates in a corpus, and the minutes of the service seen longest.

    A corpus is one stretch of time; a pause in it counts as time without lines.
    """
    live = ~corpus.column("is_late")
    classes = len(corpus.names)
    now = corpus.column("now")[live]
    if not len(now):
        return Rates(np.zeros(classes), np.full(classes, _DISPERSION), np.zeros(classes, np.int64)), 0.0
    services, service = np.unique(corpus.column("service")[live], return_inverse=True)
    start, end = np.full(len(services), now.max()), np.full(len(services), now.min())
    np.minimum.at(start, service, now)
    np.maximum.at(end, service, now)

    # One run for each service and class, and one for each service as a whole.
    now, service = np.append(now, now), np.append(service, service)
    code = np.append(corpus.column("code")[live], np.zeros(len(now) // 2, np.int32))
    pair = service * classes + code
    order = np.argsort(pair, kind="stable")
    now, pair = now[order], pair[order]
    first = np.flatnonzero(begins(pair))
    run_service, run_class = np.divmod(pair[first], classes)
    lines = np.diff(first, append=len(now))
    span_ms = np.maximum(end - start, MINUTE_MS)[run_service]
    per_minute = _ratio(run_class, lines, span_ms / MINUTE_MS, classes)

    gap = np.diff(now, prepend=0)
    gap[first] = now[first] - start[run_service]
    last = first + lines - 1
    longest = np.maximum(np.maximum.reduceat(gap, first), end[run_service] - now[last])
    enough = lines >= _STEADY
    is_steady = longest <= _STEADY * span_ms / lines
    longest_ms = np.zeros(classes, np.int64)
    np.maximum.at(longest_ms, run_class[enough], np.maximum(longest[enough], 1))
    longest_ms[run_class[enough & ~is_steady]] = 0

    # Counts of ten minutes, whole ones only: how far their variance exceeds their mean.
    run = np.repeat(np.arange(len(first)), lines)
    windows = (end - start)[run_service] // _WINDOW_MS
    window = (now - start[run_service[run]]) // _WINDOW_MS
    is_whole = window < windows[run]
    cell, count = np.unique(run[is_whole] * (int(windows.max()) + 1) + window[is_whole], return_counts=True)
    cell_run = cell // (int(windows.max()) + 1)
    of_run = np.maximum(windows, 1)
    mean = np.bincount(cell_run, count, len(first)) / of_run
    excess = np.maximum(np.bincount(cell_run, count.astype(np.float64) ** 2, len(first)) / of_run - mean**2 - mean, 0)
    found = _ratio(run_class, windows * excess, windows * mean**2, classes)
    seen = np.bincount(run_class, windows, classes)
    dispersion = (seen * found + _PRIOR_WINDOWS * _DISPERSION) / (seen + _PRIOR_WINDOWS)
    minutes = float((end - start).max() / MINUTE_MS)
    return Rates(per_minute, np.maximum(dispersion, _LEAST_DISPERSION), longest_ms), minutes


def _ratio(which: Int64, part: npt.NDArray[np.number[Any]], whole: npt.NDArray[np.number[Any]], size: int) -> Float64:
    """The sums of `part` by `which` over those of `whole`; 0 where there is nothing."""
    above, below = np.bincount(which, part, size), np.bincount(which, whole, size)
    ratio: Float64 = np.divide(above, below, out=np.zeros(size), where=below > 0)
    return ratio


class MinuteCounts:
    """Lines by minute in some runs: in their rings before a batch, and in the batch itself.

    Shapes: `ring uint16[G, 70]` the count of minute m at m % 70, and `last int64[G]` the newest minute in it; of the batch the cells (run, minute)
    in ascending order, `run int64[K]`, `minute int64[K]`, `count int64[K]`.

    >>> ring = np.zeros((1, 70), np.uint16)
    >>> ring[0, 5] = 3
    >>> counts = MinuteCounts(ring, np.array([5]), np.array([0, 0]), np.array([5, 8]), np.array([2, 4]))
    >>> [counts.until(np.array([0]), np.array([minute])).tolist()[0] for minute in (4, 5, 7, 8, 9)]
    [0, 5, 5, 9, 9]
    """

    def __init__(self, ring: npt.NDArray[np.uint16], last: Int64, run: Places, minute: Int64, count: Int64) -> None:
        self._ring, self._last = ring, last
        self._cells = run, minute
        self._low, self._span = int(minute.min()), int(minute.max() - minute.min()) + 1
        self._key = run * self._span + (minute - self._low)
        self._stored = self._at_slot(run, minute)  # of a cell's minute, before the batch
        self._count = np.minimum(count, MOST - self._stored)
        self._total = np.append(0, np.cumsum(self._count))
        self._start = np.searchsorted(run, np.arange(len(ring)))
        unrolled = np.take_along_axis(ring, (last[:, None] + np.arange(1, RING + 1)) % RING, axis=1)
        self._prefix = np.zeros((len(ring), RING + 1), np.int64)
        np.cumsum(unrolled, axis=1, out=self._prefix[:, 1:])

    @property
    def stored(self) -> Int64:
        """What the ring held before the batch of each cell's minute."""
        return self._stored

    def until(self, run: Places, minute: Int64) -> Int64:
        """Lines of a run up to and with a minute, of those that the ring reaches."""
        before = self._prefix[run, np.clip(minute - self._last[run] + RING, 0, RING)]
        reach = run * self._span + np.clip(minute - self._low, -1, self._span - 1)
        inside = self._total[np.searchsorted(self._key, reach, "right")] - self._total[self._start[run]]
        counted: Int64 = before + inside
        return counted

    def moved_on(self, newest: Int64) -> npt.NDArray[np.uint16]:
        """The rings after the batch, whose newest minutes are `newest int64[G]`."""
        run, minute = self._cells
        slot = np.arange(RING)
        label = newest[:, None] - (newest[:, None] - slot) % RING  # the minute that each slot now stands for
        ring = np.where(label <= self._last[:, None], self._ring, np.uint16(0))
        kept = minute > newest[run] - RING
        run, minute = run[kept], minute[kept]
        ring[run, minute % RING] = (self._stored + self._count)[kept]
        return ring

    def _at_slot(self, run: Places, minute: Int64) -> Int64:
        held = self._ring[run, minute % RING].astype(np.int64)
        return np.where(minute == self._last[run], held, 0)
