"""Scores that depend on the window and the next class only: each distinct pair is computed once, and remembered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.detectors.contract import DIGITS, Float32, Int32
from models.memo import ScoreMemo


class DistinctRows:
    """A function of (window, next) rows, asked about the rows that are not remembered.

    State: a memo of at most `entries` rows of 4·h + 20 bytes; dropping it changes no answer.

    Args:
        evaluate: distinct `windows int32[D, h]`, `following int32[D]` → `float32[D]`; a row's answer must not depend on the others.
        entries: bound of the memo.

    >>> rows = DistinctRows(lambda windows, following: windows.sum(axis=1) + following / 2)
    >>> rows.score(np.array([[2, 3], [2, 3]], np.int32), np.array([4, 5], np.int32)).tolist()
    [7.0, 7.5]
    """

    def __init__(self, evaluate: Callable[[Int32, Int32], Float32], entries: int = 1 << 16) -> None:
        self._evaluate = evaluate
        self._entries = entries
        self._memo: ScoreMemo | None = None  # made when the window length is known

    def score(self, windows: Int32, following: Int32) -> Float32:
        """The rounded answer of each row; `windows int32[B, h]`, `following int32[B]` → `float32[B]`."""
        if self._memo is None or self._memo.length != windows.shape[1]:
            self._memo = ScoreMemo(windows.shape[1], self._entries)
        keys = self._memo.keys(windows, following)
        score, _, is_known = self._memo.find(keys, windows, following)
        missing = np.flatnonzero(~is_known)
        if len(missing):
            distinct, place, inverse = np.unique(keys[missing], return_index=True, return_inverse=True)
            at = missing[place]
            found = self._evaluate(windows[at], following[at]).round(DIGITS).astype(np.float32)
            score[missing] = found[inverse.ravel()]
            rows = np.column_stack((windows[at], following[at]))
            self._memo.put(distinct, rows, found, np.zeros(len(at), np.int32))
        return score
