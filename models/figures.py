"""Figures of detection quality from labels, scores and flags, and how far chance may have moved them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Interval = tuple[float, float]

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2_000  # the ends of a 95 % interval then rest on 50 resamples each
_DRAWN_AT_ONCE: Final = 2_000_000  # counts in memory at once, 8 bytes each in a handful of arrays

# -- figures ---------------------------------------------------------------------------------------------------------


def precision_recall_f1(is_anomalous: Bools, is_flagged: Bools) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and their harmonic mean; None where a figure does not exist.

    >>> precision_recall_f1(np.array([True, True, False]), np.array([True, False, False]))
    (1.0, 0.5, 0.6666666666666666)
    """
    hits = int((is_anomalous & is_flagged).sum())
    flagged, anomalous = int(is_flagged.sum()), int(is_anomalous.sum())
    precision = hits / flagged if flagged else None
    recall = hits / anomalous if anomalous else None
    return precision, recall, (2 * hits / (flagged + anomalous) if anomalous else None)


def f_beta(is_anomalous: Bools, is_flagged: Bools, beta: float) -> float | None:
    """The mean of precision and recall in which recall weighs `beta` times as much; None without anomalous units.

    >>> f_beta(np.array([True, True, False]), np.array([True, False, False]), 0.5)
    0.8333333333333334

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    hits = int((is_anomalous & is_flagged).sum())
    flagged, anomalous = int(is_flagged.sum()), int(is_anomalous.sum())
    return (1 + beta**2) * hits / (beta**2 * anomalous + flagged) if anomalous else None


def auc(is_anomalous: Bools, score: Floats) -> float | None:
    """The area under the ROC curve: how often an anomalous unit scores above a normal one, equal scores counting half.

    >>> auc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1]))
    0.75
    """
    positive = int(is_anomalous.sum())
    negative = len(is_anomalous) - positive
    if not positive or not negative:
        return None
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]  # mean rank of equal scores, from 1
    return float((rank[is_anomalous].sum() - positive * (positive + 1) / 2) / (positive * negative))


def pr_auc(is_anomalous: Bools, score: Floats) -> float | None:
    """The area under the precision-recall curve as average precision; equal scores are one step.

    >>> pr_auc(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    0.8333333333333333
    """
    positive = int(is_anomalous.sum())
    if not positive or positive == len(is_anomalous):
        return None
    recall, precision = pr_points(is_anomalous, score)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if len(values) else None


# -- curves ----------------------------------------------------------------------------------------------------------


def roc_points(is_anomalous: Bools, score: Floats) -> tuple[Floats, Floats]:
    """The ROC curve, from (0, 0) to (1, 1): one point a distinct score; empty where one of the two labels is missing.

    Shapes: false positive rate float64[S + 1], recall float64[S + 1].

    >>> [axis.tolist() for axis in roc_points(np.array([True, False, False]), np.array([0.5, 0.5, 0.1]))]
    [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]
    """
    hits, false = _passed(is_anomalous, score)
    if not len(hits) or not hits[-1] or not false[-1]:
        return np.zeros(0), np.zeros(0)
    return np.append(0.0, false / false[-1]), np.append(0.0, hits / hits[-1])


def pr_points(is_anomalous: Bools, score: Floats) -> tuple[Floats, Floats]:
    """The precision-recall curve by falling score: one point a distinct score; empty without anomalous units.

    Between two points precision is that of the second: the area under these steps is `pr_auc`.

    Shapes: recall float64[S], precision float64[S].

    >>> [axis.tolist() for axis in pr_points(np.array([True, False, True]), np.array([0.9, 0.5, 0.5]))]
    [[0.5, 1.0], [1.0, 0.6666666666666666]]
    """
    hits, false = _passed(is_anomalous, score)
    if not len(hits) or not hits[-1]:
        return np.zeros(0), np.zeros(0)
    return hits / hits[-1], hits / (hits + false)


def _passed(is_anomalous: Bools, score: Floats) -> tuple[Int64, Int64]:
    """How many anomalous and normal units score at least as high as each distinct score, the highest first.

    Shapes: int64[S], int64[S].
    """
    order = np.argsort(-score, kind="stable")
    hits, ordered = np.cumsum(is_anomalous[order]), score[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(score)])  # of each group of equal scores
    return hits[last], last + 1 - hits[last]


# -- intervals -------------------------------------------------------------------------------------------------------


def wilson(count: int, total: int, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a share; unlike a bootstrap it keeps a width where the share is 0 or 1. None of nothing.

    >>> [round(end, 4) for end in wilson(0, 100)]
    [0.0, 0.037]

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (JASA 22, 1927).
    """
    if not total:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = count / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z * sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / shrink
    # At the two ends the formula gives 0 and 1 but for rounding.
    return (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)


@dataclass(frozen=True, slots=True)
class Cells:
    """Units alike in score, flag and label, counted together: all that the figures of a resample depend on.

    Shapes: [K], by falling score; `starts int64[S]`: where the cells of each distinct score begin.
    """

    count: Int64
    is_anomalous: Bools
    is_flagged: Bools
    starts: Int64

    @classmethod
    def of(cls, is_anomalous: Bools, is_flagged: Bools, score: Floats) -> Cells:
        """Of some units.

        Shapes: each [U].
        """
        rank = np.unique(-score, return_inverse=True)[1]
        kind, count = np.unique(rank * 4 + is_flagged * 2 + is_anomalous, return_counts=True)
        return cls(count, kind % 2 == 1, kind % 4 >= 2, np.flatnonzero(np.diff(kind // 4, prepend=-1)))

    def figures(self, drawn: Floats) -> dict[str, Floats]:
        """The figures of resamples, given as how often each cell was drawn; NaN where a figure does not exist.

        Shapes: `drawn float64[B, K]` → float64[B] each.
        """
        hits = drawn @ (self.is_anomalous & self.is_flagged)  # [B]
        flagged = drawn @ self.is_flagged
        positive = drawn @ self.is_anomalous
        negative = drawn @ ~self.is_anomalous
        anomalous = np.add.reduceat(drawn * self.is_anomalous, self.starts, axis=1)  # [B, S]
        normal = np.add.reduceat(drawn * ~self.is_anomalous, self.starts, axis=1)  # [B, S]
        above, false_above = np.cumsum(anomalous, axis=1), np.cumsum(normal, axis=1)
        is_two_sided = (positive > 0) & (negative > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = anomalous * above / np.maximum(above + false_above, 1)  # no unit yet: a step of 0
            return {
                "precision": np.where(flagged > 0, hits / flagged, np.nan),
                "recall": np.where(positive > 0, hits / positive, np.nan),
                "f1": np.where(positive > 0, 2 * hits / (flagged + positive), np.nan),
                "auc": np.where(
                    is_two_sided, (normal * (above - anomalous / 2)).sum(axis=1) / (positive * negative), np.nan
                ),
                "pr_auc": np.where(is_two_sided, steps.sum(axis=1) / positive, np.nan),
            }


def bootstrap(
    is_anomalous: Bools,
    is_flagged: Bools,
    score: Floats,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Percentile bootstrap over units: intervals of precision, recall, f1, auc and pr_auc.

    An interval covers the resamples in which its figure exists, and is None where it exists in none. It has no width
    where all units of a kind went the same way; and it takes units to be independent, which neighbouring windows are
    not quite.

    Shapes: each [U].

    >>> labels = np.array([True, False] * 20)
    >>> bootstrap(labels, labels, labels.astype(float))["recall"]
    (1.0, 1.0)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    cells = Cells.of(is_anomalous, is_flagged, score)
    figures = [cells.figures(drawn) for drawn in _resampled(cells.count, resamples, seed)]
    return {
        name: _percentiles(np.concatenate([np.zeros(0), *(part[name] for part in figures)]), confidence)
        for name in ("precision", "recall", "f1", "auc", "pr_auc")
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two figures over the same units, and its interval."""

    value: float
    low: float
    high: float


def f1_difference(
    is_anomalous: Bools,
    is_flagged: Bools,
    is_flagged_before: Bools,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Difference | None:
    """The F1 of some flags less that of others over the same units, by paired bootstrap; None without anomalous units.

    Paired: a resample takes a unit with both its flags, so that what is hard for both widens no interval.

    Shapes: each [U].

    >>> labels = np.array([True, False] * 20)
    >>> f1_difference(labels, labels, labels)
    Difference(value=0.0, low=0.0, high=0.0)
    """
    kind = is_flagged * 4 + is_flagged_before * 2 + is_anomalous
    count = np.bincount(kind, minlength=8)  # [8]
    at = np.arange(8)

    def difference(drawn: Floats) -> Floats:
        positive = drawn @ (at % 2 == 1)  # [B]
        both = []
        for flag in (at >= 4, at % 4 >= 2):
            hits, flagged = drawn @ (flag & (at % 2 == 1)), drawn @ flag
            with np.errstate(invalid="ignore"):
                both.append(np.where(positive > 0, 2 * hits / (flagged + positive), np.nan))
        change: Floats = both[0] - both[1]
        return change

    value = float(difference(count[None, :].astype(np.float64))[0])
    samples = [difference(drawn) for drawn in _resampled(count, resamples, seed)]
    interval = _percentiles(np.concatenate([np.zeros(0), *samples]), confidence)
    return None if interval is None else Difference(value, *interval)


def _resampled(count: Int64, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each cell is drawn when as many units as there are are drawn with replacement; in chunks.

    Shapes: `count int64[K]` → float64[B, K], B adding up to `resamples`; none without units.
    """
    total = int(count.sum())
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // max(1, len(count)))
    for done in range(0, resamples if total else 0, rows):
        yield random.multinomial(total, count / total, size=min(rows, resamples - done)).astype(np.float64)


def _percentiles(values: Floats, confidence: float) -> Interval | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
