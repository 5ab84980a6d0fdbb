"""Conformal evidence: how seldom a detector's score is seen on normal lines, so that detectors can be compared and added up.

Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), chapter 2 (p-values of a score against those of exchangeable normal
examples); mid-p for ties; beyond the largest score seen an exponential tail (Pickands 1975 with shape 0), because n normal scores alone can say
nothing below 1/n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

_KEPT: Final = 256  # of the largest distinct scores each is kept, and as many of the others
_TAIL_RATIO: Final = 0.01  # the tail is fitted to this share of the scores …
_TAIL_FEW: Final = 20  # … or this many at least
_BEYOND: Final = 1.0  # evidence that the fitted tail may add to what n scores can say


@dataclass(frozen=True, slots=True)
class NormalScores:
    """The scores of one detector on normal lines, and the evidence of a new one against them.

    Evidence is −log10 of the mid-p value: 1 is seen on one normal line of ten, 3 on one of a thousand.

    Attributes:
        value: distinct scores, ascending; `float32[M]`.
        at: evidence of a score equal to it; `float32[M]`.
        above: evidence of a score above it and below the next; `float32[M]`.
        slope: evidence a unit of score beyond the largest.
        count: scores there were.

    >>> normal = NormalScores.of(np.repeat([0.0, 1.0], [990, 10]))
    >>> normal.evidence(np.array([0.0, 1.0, 5.0, np.nan])).astype(float).round(2).tolist()
    [0.3, 2.26, 4.3, 0.0]
    """

    value: npt.NDArray[np.float32]
    at: npt.NDArray[np.float32]
    above: npt.NDArray[np.float32]
    slope: float
    count: int

    @classmethod
    def of(cls, scores: Floats) -> NormalScores:
        """The table of some normal scores; those that are NaN say nothing."""
        spoken = np.sort(np.asarray(scores, np.float32)[~np.isnan(scores)])
        value, first, same = np.unique(spoken, return_index=True, return_counts=True)
        count = len(spoken)
        larger = count - first - same
        at = -np.log10((larger + 0.5 * same + 0.5) / (count + 1))
        above = -np.log10((larger + 0.5) / (count + 1))
        kept = np.arange(len(value))
        if len(value) > 2 * _KEPT:
            lower = np.linspace(0, len(value) - _KEPT - 1, _KEPT).astype(np.int64)
            kept = np.concatenate((lower, np.arange(len(value) - _KEPT, len(value))))
        return cls(value[kept], at[kept].astype(np.float32), above[kept].astype(np.float32), _slope(spoken), count)

    def evidence(self, scores: Floats) -> npt.NDArray[np.float32]:
        """The evidence of each score, rounded to 1e-4; 0 for NaN, and for all if no normal score is known."""
        found = np.zeros(len(scores), np.float32)
        spoken = np.flatnonzero(~np.isnan(scores))
        if not len(self.value) or not len(spoken):
            return found
        score = np.asarray(scores, np.float32)[spoken]
        place = np.searchsorted(self.value, score, side="right") - 1
        is_seen = (place >= 0) & (self.value[place] == score)
        evidence = np.where(is_seen, self.at[place], np.where(place >= 0, self.above[place], 0.0))
        beyond = score - self.value[-1]
        evidence += np.where(beyond > 0, np.minimum(beyond * self.slope, _BEYOND), 0.0)
        found[spoken] = np.round(evidence, 4)
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The table as arrays, for the artefact."""
        return {
            "value": self.value,
            "at": self.at,
            "above": self.above,
            "tail": np.array([self.slope, self.count], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> NormalScores:
        """The inverse of `arrays`.

        Raises: ValueError if they do not hold together.
        """
        value, at, above = (np.asarray(arrays[name], np.float32) for name in ("value", "at", "above"))
        slope, count = (float(number) for number in arrays["tail"])
        is_finite = np.isfinite((*value, *at, *above, slope)).all()
        if not value.shape == at.shape == above.shape or not is_finite or (np.diff(value) <= 0).any():
            raise ValueError("a table of normal scores is damaged")
        return cls(value, at, above, slope, int(count))


def _slope(ordered: npt.NDArray[np.float32]) -> float:
    """1 / (mean excess of the largest scores · ln 10); 0 where there is no tail to speak of."""
    size = min(len(ordered), max(_TAIL_FEW, int(len(ordered) * _TAIL_RATIO)))
    if size < 2:
        return 0.0
    excess = float((ordered[-size:] - ordered[-size]).mean())
    return 1.0 / (excess * math.log(10)) if excess > 0 else 0.0
