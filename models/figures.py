"""Figures of detection quality from labels, scores and flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
    order = np.argsort(-score, kind="stable")
    hits, ordered = np.cumsum(is_anomalous[order]), score[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each group of equal scores
    recall = hits[last] / positive
    return float((np.diff(recall, prepend=0.0) * hits[last] / (last + 1)).sum())


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if len(values) else None
