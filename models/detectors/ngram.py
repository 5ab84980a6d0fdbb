"""N-gram: a line that never came after the lines before it while learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.deeplog import PADDING, UNKNOWN
from models.detectors.contract import (
    DIGITS,
    Bools,
    Corpus,
    Detector,
    Evidence,
    Float32,
    Int32,
    Int64,
    Learned,
    Report,
    Scores,
    Seen,
    quiet,
)
from models.detectors.rows import mix
from models.detectors.words import quoted
from models.errors import DataSetError, SettingsError

Float64 = npt.NDArray[np.float64]

_EXPECTED: Final = 3  # classes named in an explanation


@dataclass(frozen=True)
class NgramParams:
    """How long the sequences are.

    Attributes:
        n: lines of an n-gram, the judged one included; a window shorter than n − 1 makes it shorter.
        min_lines: fewer lines than this teach nothing.
        max_grams: distinct n-grams kept, the most frequent first; 4·n + 8 bytes each.
    """

    name: ClassVar[str] = "ngram"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "order"
    is_fitted_once: ClassVar[bool] = False
    is_service_wide: ClassVar[bool] = False

    n: int = 3
    min_lines: int = 100
    max_grams: int = 1_000_000

    def __post_init__(self) -> None:
        if not 2 <= self.n <= 10:
            raise SettingsError(f"ngram: n is {self.n}; give 2 to 10.")
        if self.min_lines < 1 or self.max_grams < 1:
            raise SettingsError("ngram: min_lines and max_grams must be at least 1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The distinct n-grams with their counts.

        Shapes: `grams int32[G, n]` (context, then the line's class), `counts int64[G]`.

        Raises: DataSetError if fewer than `min_lines` lines have a template and a full window or a session.
        """
        n = min(self.n, corpus.length + 1)
        end = len(corpus.names)
        rows: list[Int32] = [np.zeros((0, n), np.int32)]
        for number, seen in enumerate(corpus.batches):
            taught = np.flatnonzero(_is_judged(seen, n) & (seen.code != UNKNOWN))
            rows.append(_grams(seen.windows[taught], seen.code[taught], n))
            rows.append(_grams(seen.ends.windows, np.full(len(seen.ends), end, np.int32), n))
            report("counting n-grams", (number + 1) / len(corpus.batches), None)
        every = np.concatenate(rows)
        if len(every) < self.min_lines:
            raise DataSetError(
                f"ngram: {len(every)} lines with their lines before; at least {self.min_lines} are needed."
            )
        _, place, counts = np.unique(_keys(every, end + 1), return_index=True, return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[: self.max_grams])
        return Learned({"grams": every[place[kept]], "counts": counts[kept].astype(np.int64)})

    def build(self, learned: Learned, names: Sequence[str]) -> Ngram:
        """The detector.

        Raises: ValueError if the n-grams do not fit the names.
        """
        grams, counts = np.asarray(learned.arrays["grams"], np.int32), np.asarray(learned.arrays["counts"], np.int64)
        if grams.ndim != 2 or grams.shape[1] < 2 or counts.shape != grams.shape[:1] or not len(grams):
            raise ValueError(f"ngram: n-grams of shape {grams.shape} with counts of shape {counts.shape}")
        if grams.min() < 0 or grams.max() > len(names) or counts.min() < 1:
            raise ValueError("ngram: a class or a count is out of range")
        return Ngram(grams, counts, names)


class Ngram(Detector):
    """Score −log10 P(line | n − 1 lines before) / (1 + times this n-gram was seen).

    P backs off to shorter contexts (Witten and Bell): an n-gram never seen weighs the more, the more often its context was seen and the
    fewer lines ever followed it; one seen often weighs nothing, however unlikely it is. A session's start is a context like any
    other, its end a line like any other. A context reaches back to the last unknown line only; a line right after one is not
    judged. An unknown line itself has the surprise that any unknown line has (Good and Turing).

    Source: Forrest et al., A Sense of Self for Unix Processes (1996); Landauer et al., A Critical Review of Common Log Data
    Sets (2023); Witten and Bell, The Zero-Frequency Problem (1991), method C; Good, The Population Frequencies of
    Species (1953).
    """

    def __init__(self, grams: Int32, counts: Int64, names: Sequence[str]) -> None:
        self._names = names
        self._grams, self._counts = grams, counts
        self._n = grams.shape[1]
        self._levels = [_Level(grams[:, -1:], counts, len(names), np.full(len(grams), 1 / max(1, len(names) - 1)))]
        for k in range(2, self._n + 1):
            shorter = self._levels[-1].probability(grams[:, -k + 1 :])[0]
            self._levels.append(_Level(grams[:, -k:], counts, len(names), shorter))
        lines = self._levels[0].total
        self._unknown = -np.log10((self._levels[0].seen_once + 1) / (lines + 2))

    def step(self, seen: Seen) -> Scores:
        """The surprise of each line and end; NaN for a line that is late, has no session and no full window, or follows an unknown one."""
        score = self._score(_grams(seen.windows, seen.code, self._n))
        score[~_is_judged(seen, self._n)] = np.nan
        end = np.full(len(seen.ends), len(self._names), np.int32)
        return Scores(score, self._score(_grams(seen.ends.windows, end, self._n)))

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """How often the lines before were seen, and what followed them."""
        window = seen.ends.windows[at] if is_end else seen.windows[at]
        code = len(self._names) if is_end else int(seen.code[at])
        what = "The session's end" if is_end else "This line"
        if code == UNKNOWN:
            return Evidence(f"A line of no template known, among {self._levels[0].total:,} lines learned.")
        row = _grams(window[None, :], np.array([code], np.int32), self._n)
        k = int(_reach(row)[0])
        context = row[0, self._n - k : -1]
        while True:
            follows = (self._grams[:, self._n - k : -1] == context[None, :]).all(axis=1)
            if follows.any():
                break
            k, context = k - 1, context[1:]
        classes, inverse = np.unique(self._grams[follows, -1], return_inverse=True)
        counts = np.bincount(inverse, weights=self._counts[follows])
        total = int(counts.sum())
        order = np.argsort(-counts, kind="stable")[:_EXPECTED]
        expected = [(int(classes[place]), round(float(counts[place]) / total, DIGITS)) for place in order]
        seen_times = int(counts[classes == code].sum())
        if k == 1:
            where = (
                f"where nothing like the lines before is known; it makes up {seen_times:,} of {total:,} lines learned"
            )
        else:
            before = ", ".join(quoted(self._names, number) for number in context.tolist())
            times = "never" if seen_times == 0 else f"{seen_times:,} times"
            where = f"after {before}, seen {total:,} times and {times} followed by it"
        return Evidence(f"{what} comes {where}.", expected=expected)

    def _score(self, grams: Int32) -> Float32:
        """`grams int32[B, n]` → `float32[B]`, each distinct row looked up once."""
        _, place, inverse = np.unique(_keys(grams, len(self._names) + 1), return_index=True, return_inverse=True)
        rows = grams[place]
        reach = _reach(rows)
        surprise = np.full(len(rows), np.nan)
        for k in range(2, self._n + 1):
            part = np.flatnonzero(reach == k)
            if len(part):
                surprise[part] = self._surprise(rows[part], k)
        surprise[rows[:, -1] == UNKNOWN] = self._unknown
        found: Float32 = surprise.round(DIGITS).astype(np.float32)[inverse.ravel()]
        return found

    def _surprise(self, rows: Int32, k: int) -> Float64:
        """By the last `k` columns of the rows."""
        weight: Float64 = np.ones(len(rows))
        probability: Float64 = np.zeros(len(rows))
        count = self._levels[k - 1].probability(rows[:, -k:])[1]
        left = np.arange(len(rows))
        for size in range(k, 0, -1):
            level = self._levels[size - 1]
            found, times = level.probability(rows[left, -size:])
            is_known = (times > 0) | (size == 1)
            probability[left[is_known]] = weight[left[is_known]] * found[is_known]
            left = left[~is_known]
            weight[left] *= level.back_off(rows[left, -size:-1])
        surprise: Float64 = -np.log10(probability) / (1 + count)
        return surprise


class _Level:
    """All k-grams of one k: the probability of those seen, and what each context leaves to those not seen.

    Args:
        grams: `int32[G, k]`, which need not be distinct.
        counts: of each.
        names: how many classes there are besides the end.
        shorter: the probability of each gram's last k − 1 classes; `float64[G]`.
    """

    def __init__(self, grams: Int32, counts: Int64, names: int, shorter: Float64) -> None:
        self._base = names + 1
        self._keys, place, inverse = np.unique(_keys(grams, self._base), return_index=True, return_inverse=True)
        self._count = np.bincount(inverse.ravel(), weights=counts).astype(np.int64)
        distinct = grams[place]
        self._contexts, group = np.unique(_keys(distinct[:, :-1], self._base), return_inverse=True)
        group = group.ravel()
        total, kinds = np.bincount(group, weights=self._count), np.bincount(group)
        self._back_off = kinds / (total + kinds)
        self._probability = (self._count + kinds[group] * shorter[place]) / (total + kinds)[group]
        self._never = float(self._back_off[0] / max(1, names - 1))  # of a class that was never seen, at k = 1
        self.total = int(self._count.sum())
        self.seen_once = int(((self._count == 1) & (distinct[:, -1] < names)).sum())

    def probability(self, grams: Int32) -> tuple[Float64, Int64]:
        """The probability of each gram (meaningless if it was never seen and k > 1), and how often it was seen."""
        place, is_known = _find(self._keys, _keys(grams, self._base))
        return np.where(is_known, self._probability[place], self._never), np.where(is_known, self._count[place], 0)

    def back_off(self, contexts: Int32) -> Float64:
        """What each context leaves to what never followed it; 1 for a context never seen."""
        place, is_known = _find(self._contexts, _keys(contexts, self._base))
        return np.where(is_known, self._back_off[place], 1.0)


def _is_judged(seen: Seen, n: int) -> Bools:
    """Which lines have the lines before them: those of a session, and those without one whose window reaches far enough."""
    judged: Bools = ~seen.is_late & (seen.has_session | (seen.windows[:, seen.windows.shape[1] - n + 1] != PADDING))
    return judged


def _grams(windows: Int32, code: Int32, n: int) -> Int32:
    """The last n − 1 classes of each window and the class itself; `int32[B, n]`."""
    return np.column_stack((windows[:, windows.shape[1] - n + 1 :], code)).astype(np.int32)


def _reach(grams: Int32) -> npt.NDArray[np.intp]:
    """How many classes at the end of each row hold no unknown context; 1 if the line before is unknown.

    >>> _reach(np.array([[2, 3, 4], [1, 3, 4], [2, 1, 4], [2, 3, 1]], np.int32)).tolist()
    [3, 2, 1, 3]
    """
    reach = np.full(len(grams), grams.shape[1])
    for at in range(grams.shape[1] - 1):
        reach[grams[:, at] == UNKNOWN] = grams.shape[1] - 1 - at
    return reach


def _keys(rows: Int32, base: int) -> Int64:
    """One key for each row: its classes as the digits of a number where that fits, else a hash.

    >>> _keys(np.array([[1, 2], [0, 7]], np.int32), 10).tolist()
    [12, 7]
    """
    if base ** rows.shape[1] >= 2**63:
        return mix(*rows.T).view(np.int64)
    key = np.zeros(len(rows), np.int64)
    for column in rows.T:
        key = key * base + column
    return key


def _find(table: Int64, keys: Int64) -> tuple[npt.NDArray[np.intp], Bools]:
    """Where each key is in a sorted table that is not empty, and whether it is there at all."""
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys
