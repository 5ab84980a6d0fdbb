"""Count: a template more often in a session than ever in learning, or a session that ends with other counts than any before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.deeplog import UNKNOWN
from models.detectors.contract import (
    DIGITS,
    Corpus,
    Evidence,
    Float32,
    Int32,
    Int64,
    Learned,
    Report,
    Scores,
    Seen,
    UInt64,
    quiet,
)
from models.detectors.rows import DetectorWithRows, mix
from models.detectors.tally import MAX_CLASSES, MOST, Counted, Tally, Vectors
from models.detectors.words import quoted
from models.errors import DataSetError, SettingsError

Float64 = npt.NDArray[np.float64]

_MINUTE_MS: Final = 60_000
_PAUSE_MS: Final = (
    10_000  # after a longer one a template comes again because the session goes on, not because a step was repeated …
)
_PAUSE_RATIO: Final = 0.05  # … and if that is so for more of its repeats than this, its count is no sign
_FEW: Final = 20  # sessions, or service minutes; fewer teach nothing of their kind
_ONCE: Final = 0.5  # distance of a vector learned from one session only; a common template missing is 1
_MEMO: Final = 1 << 16  # vectors whose distance is remembered
_UNIT: Final = 10**DIGITS
_NEAR: Final = 32  # vectors of the nearest sizes below and above that are looked at first
_NAMED: Final = 3  # differences named in an explanation
_SESSION, _SERVICE_MINUTE = 0, 1  # the kinds of units whose lines are counted


@dataclass(frozen=True)
class CountParams:
    """What is counted, and what counts as more than ever.

    Attributes:
        quantile: of the sessions (or service minutes) that have a template, the share whose count of it is normal.
        max_vectors: distinct normal vectors kept, the most frequent first.
        max_rows: rows of state in a shard, of 136 bytes, and no fewer than a batch has sessions; beyond, the longest untouched are
            evicted.

    What recurs in a session with pauses is not counted against it.

    Units: `session_gap_ms` is event time; a session silent for longer is forgotten. A session of more than `max_lines` lines is no
    session but a stream, which counts without end: from there on nothing is said of its lines nor of its end.
    """

    name: ClassVar[str] = "count"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "number"
    is_fitted_once: ClassVar[bool] = False
    is_service_wide: ClassVar[bool] = False

    session_gap_ms: int = 24 * 3_600_000
    max_lines: int = 200
    quantile: float = 0.999
    max_vectors: int = 2_000
    max_rows: int = 50_000

    def __post_init__(self) -> None:
        if self.session_gap_ms < 1:
            raise SettingsError(f"count: session_gap_ms is {self.session_gap_ms}; give at least 1.")
        if not 0.5 <= self.quantile <= 1:
            raise SettingsError(f"count: quantile is {self.quantile}; give 0.5 to 1.")
        if self.max_vectors < 1 or self.max_rows < 1:
            raise SettingsError("count: max_vectors and max_rows must be at least 1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """How many units have each class and how often, and the vectors of sessions at their end.

        Where no session's end was told, the sessions are taken as they are at the end of the corpus.

        Shapes: `holders int64[2, C]` units that have the class, `limit int64[2, C]` its normal count in them; the distinct vectors
        `vector_start int64[D + 1]`, `vector_code int32[K]`, `vector_count int64[K]` and the sessions with each, `vector_seen int64[D]`.

        Raises: DataSetError if there are fewer than 20 sessions and fewer than 20 minutes of lines without session.
        """
        tally = Tally(self.session_gap_ms, self.max_rows)
        reached: list[Int64] = []  # (kind, class, count): a unit came to have that count of that class
        minutes: list[UInt64] = []
        sessions = 0
        vectors: Counter[bytes] = Counter()
        for number, seen in enumerate(corpus.batches):
            counted = tally.step(seen)
            kind = np.where(seen.has_session, _SESSION, _SERVICE_MINUTE)
            live = (counted.count > 0) & (~seen.has_session | (counted.length <= self.max_lines))
            cell = (kind * MAX_CLASSES + seen.code) * (MOST + 1) + counted.count
            reached.append(cell[live])
            sessions += int(np.count_nonzero(counted.is_begin & seen.has_session))
            minutes.append(np.unique(mix(seen.service, seen.now // _MINUTE_MS)[live & ~seen.has_session]))
            vectors.update(_packed(counted.ends))
            report("counting", (number + 1) / len(corpus.batches), None)
        service_minutes = len(np.unique(np.concatenate(minutes))) if minutes else 0
        if max(sessions, service_minutes) < _FEW:
            raise DataSetError(
                f"count: {sessions} sessions and {service_minutes} minutes of lines without session; "
                f"at least {_FEW} of either are needed."
            )
        if not vectors:
            keys = [np.unique(seen.key[seen.has_session & ~seen.is_late]) for seen in corpus.batches]
            vectors.update(_packed(tally.sessions(np.unique(np.concatenate(keys)))))
        holders, limit = _usual(np.concatenate(reached), self.quantile, len(corpus.names))
        kept = sorted(vectors.items(), key=lambda item: (-item[1], item[0]))[: self.max_vectors]
        pairs = [np.frombuffer(data, "<i8").reshape(2, -1) for data, _ in kept]
        code, count = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
        return Learned(
            {
                "holders": np.minimum(
                    holders, [[sessions], [service_minutes]]
                ),  # a class without slot counts each line
                "limit": np.where(_recurring(corpus), MOST, limit),
                "vector_start": np.cumsum([0, *(pair.shape[1] for pair in pairs)]).astype(np.int64),
                "vector_code": code.astype(np.int32),
                "vector_count": count,
                "vector_seen": np.array([times for _, times in kept], np.int64),
            },
            {"sessions": sessions, "minutes": service_minutes},
        )

    def build(self, learned: Learned, names: Sequence[str]) -> Count:
        """The detector.

        Raises: ValueError if what was learned does not fit the names.
        """
        return Count(self, learned, names)


class Count(DetectorWithRows):
    """How far counts exceed what is normal, weighted by how rare the template is.

    Line: −log10 of the share of sessions that have its class c; beyond the class's limit also that of the sessions that reached it, and
    w(c) · log2((1 + n) / (1 + limit)), where n is the count of c in the session so far (for a line without session, in its service's
    minute). End: the least of Σ w(c) · |log2((1 + n) / (1 + m))| over the vectors m learned, so 0 for one learned from several sessions. w is the
    inverse document frequency, ln((1 + units) / (1 + units with c)) + 1: 1 for a template of every session, most for an unknown one.

    State: counts by session, and by service, minute and class (tally.py).

    Source: Xu et al., Detecting Large-Scale System Problems by Mining Console Logs (SOSP 2009), section 4 (count vectors); Lin et al.,
    Log Clustering Based Problem Identification for Online Service Systems (ICSE-C 2016), section III (weights by inverse
    document frequency, nearest known cluster); the nearest vector in place of a subspace needs no choice of its rank.
    """

    def __init__(self, params: CountParams, learned: Learned, names: Sequence[str]) -> None:
        holders = np.asarray(learned.arrays["holders"], np.int64)
        units = np.array([learned.facts["sessions"], learned.facts["minutes"]], np.int64)
        if holders.shape != (2, len(names)) or (holders > units[:, None]).any():
            raise ValueError(f"count: holders of shape {holders.shape} do not fit {len(names)} names and {units} units")
        if len(names) > MAX_CLASSES:
            raise ValueError(f"count: {len(names)} classes; at most {MAX_CLASSES} can be counted")
        self._names = names
        self._holders = holders
        self._units = units
        self._weight: Float64 = np.log((1.0 + units[:, None]) / (1.0 + holders)) + 1.0
        self._rarity: Float64 = (self._weight - 1) / np.log(10)
        self._beyond: Float64 = np.log10(1.0 + holders)
        self._max_lines = params.max_lines
        self._limit = np.asarray(learned.arrays["limit"], np.int64)
        self._is_learned = units >= _FEW
        arrays = learned.arrays
        vectors = Vectors(
            np.asarray(arrays["vector_start"], np.int64),
            np.asarray(arrays["vector_code"], np.int32),
            np.asarray(arrays["vector_count"], np.int64),
        )
        told = np.where(self._limit[_SESSION] < MOST, self._weight[_SESSION], 0.0)
        self._nearest = _Nearest(vectors, np.asarray(arrays["vector_seen"], np.int64), told)
        self._tally = Tally(params.session_gap_ms, params.max_rows)
        self._rows = self._tally.rows
        self._last: Counted | None = None  # what `explain` speaks of

    def step(self, seen: Seen) -> Scores:
        """The scores; NaN for late lines, sessions forgotten, and where nothing of the kind was learned."""
        counted = self._last = self._tally.step(seen)
        kind = np.where(seen.has_session, _SESSION, _SERVICE_MINUTE)
        score = self._rarity[kind, seen.code]
        over = np.flatnonzero(counted.count > self._limit[kind, seen.code])
        at = kind[over], seen.code[over]
        score[over] += self._beyond[at] + self._weight[at] * np.log2((1 + counted.count[over]) / (1 + self._limit[at]))
        is_stream = seen.has_session & (counted.length > self._max_lines)
        score[(counted.count == 0) | ~self._is_learned[kind] | is_stream] = np.nan
        end = self._nearest.score(counted.ends)
        end[counted.ends.totals() > self._max_lines] = np.nan
        return Scores(score.round(DIGITS).astype(np.float32), end)

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """The count against the normal one; for an end the counts that differ from the nearest normal session's."""
        assert self._last is not None
        if is_end:
            return Evidence(self._nearest.explain(*self._last.ends[at], self._names))
        kind = _SESSION if seen.has_session[at] else _SERVICE_MINUTE
        code, count = int(seen.code[at]), int(self._last.count[at])
        where = "session" if kind == _SESSION else "minute of its service"
        holders, limit = int(self._holders[kind, code]), int(self._limit[kind, code])
        usual = f"of the {holders:,} learned with it, nearly all have it at most {limit:,} times"
        if count <= limit:
            usual = f"{holders:,} of {int(self._units[kind]):,} that were learned have it"
        if not holders:
            usual = "none that was learned has it"
        return Evidence(f"In this {where}, {quoted(self._names, code)} came {_times(count)} so far; {usual}.")

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole and within their bound."""
        self._tally.check()


class _Nearest:
    """The distance of a count vector to the nearest of those learned.

    Distances are sums of integers, in units of 1e-5: exact in any order. The vectors lie by size (their distance to the empty vector): one whose size
    differs by more than the least distance found so far cannot be nearer.

    State: a memo of at most 65,536 distances; dropping it changes no answer.
    """

    def __init__(self, vectors: Vectors, times: Int64, weight: Float64) -> None:
        if len(vectors) != len(times) or (len(vectors) and int(vectors.start[-1]) != len(vectors.code)):
            raise ValueError(f"count: {len(vectors)} vectors, {len(times)} numbers of sessions that had them")
        self._weight = weight * _UNIT
        part = self._parts(vectors.code, vectors.count)
        which = np.repeat(np.arange(len(vectors)), np.diff(vectors.start))
        size = np.zeros(len(vectors), np.int32)
        np.add.at(size, which, part)
        self._order = np.argsort(size, kind="stable")
        self._size: Int32 = size[self._order]
        column = np.argsort(self._order)
        classes, row = np.unique(vectors.code, return_inverse=True)
        self._row = np.full(len(weight), -1)
        self._row[classes] = np.arange(len(classes))
        self._table: Int32 = np.zeros((len(classes), len(vectors)), np.int32)  # [classes, D]
        self._table[row, column[which]] = part
        self._once: Int32 = np.where(times[self._order] > 1, 0, int(_ONCE * _UNIT)).astype(np.int32)
        self._vectors, self._times = vectors, times
        self._memo: dict[int, float] = {}

    def score(self, vectors: Vectors) -> Float32:
        """Each vector's distance, each distinct one computed once; NaN for empty ones, and if none was learned."""
        score = np.full(len(vectors), np.nan, np.float32)
        filled = np.flatnonzero(np.diff(vectors.start))
        if not len(filled) or not len(self._vectors):
            return score
        key = np.add.reduceat(mix(vectors.code, vectors.count), vectors.start[filled])
        distinct, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        if len(self._memo) > _MEMO:
            self._memo = {}
        found = np.empty(len(distinct), np.float32)
        for place, (known, at) in enumerate(zip(distinct.tolist(), filled[first].tolist(), strict=True)):
            if known not in self._memo:
                self._memo[known] = self._find(*vectors[at])[0] / _UNIT
            found[place] = self._memo[known]
        score[filled] = found[inverse.ravel()]
        return score

    def explain(self, code: Int32, count: Int64, names: Sequence[str]) -> str:
        """The counts that differ most from those of the nearest vector, as a sentence."""
        nearest = self._find(code, count)[1]
        known, usual = self._vectors[nearest]
        sessions = f"{int(self._times[nearest]):,} of the sessions learned"
        own, normal = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
        own[code], normal[known] = count, usual
        gap = self._weight * np.abs(np.log2((1 + own) / (1 + normal)))
        differing = np.argsort(-gap, kind="stable")[: min(_NAMED, np.count_nonzero(gap))].tolist()
        if not differing:
            return f"The session ended with the counts of {sessions}."
        told = ", ".join(
            f"{quoted(names, at)} {_times(int(own[at]))} instead of {int(normal[at]):,}" for at in differing
        )
        return f"The session ended with {told}, compared with the nearest counts, those of {sessions}."

    def _parts(self, code: Int32, count: Int64) -> Int32:
        """What each class adds to a vector's size; at most 65,535 counts, 24 classes and weights below 50 keep sums below 2**31."""
        parts: Int32 = np.rint(self._weight[code] * np.log2(1.0 + count)).astype(np.int32)
        return parts

    def _find(self, code: Int32, count: Int64) -> tuple[int, int]:
        """The least distance, and the vector that has it."""
        own = self._parts(code, count)
        row = self._row[code]
        is_shared = row >= 0
        size, new = int(own.sum()), int(own[~is_shared].sum())
        row, own = row[is_shared], own[is_shared, None]
        middle = int(np.searchsorted(self._size, size))
        low, high = max(0, middle - _NEAR), min(len(self._size), middle + _NEAR)
        distance = self._distances(row, own, low, high)
        least = int(distance.min()) + new
        wide = int(np.searchsorted(self._size, size - least)), int(np.searchsorted(self._size, size + least, "right"))
        if wide[0] < low or wide[1] > high:
            low, high = min(low, wide[0]), max(high, wide[1])
            distance = self._distances(row, own, low, high)
        nearest = int(distance.argmin())
        return int(distance[nearest]) + new, int(self._order[low + nearest])

    def _distances(self, row: npt.NDArray[np.intp], own: Int32, low: int, high: int) -> Int32:
        """Distances in the classes that were learned: the sizes of the vectors, corrected in the classes at hand."""
        table = self._table[row, low:high]  # [k, high - low]
        change = table - own
        np.abs(change, out=change)
        change -= table
        distances: Int32 = np.add.reduce(change, axis=0, dtype=np.int32)
        distances += self._size[low:high]
        distances += self._once[low:high]
        return distances


def _recurring(corpus: Corpus) -> npt.NDArray[np.bool_]:
    """By kind and class: whether it comes again and again in a session, with pauses between, so that its count says how long the session was.

    Shapes: `bool[2, C]`; in a service's minute nothing is recurring.
    """
    has_session = corpus.column("has_session")
    key, code, now = (corpus.column(name)[has_session] for name in ("key", "code", "now"))
    order = np.lexsort((np.arange(len(key)), code, key))
    again = np.flatnonzero((key[order[1:]] == key[order[:-1]]) & (code[order[1:]] == code[order[:-1]]))
    pause_ms = now[order[again + 1]] - now[order[again]]
    repeats = np.bincount(code[order[again]], minlength=len(corpus.names))
    pauses = np.bincount(code[order[again[pause_ms > _PAUSE_MS]]], minlength=len(corpus.names))
    found = np.zeros((2, len(corpus.names)), np.bool_)
    found[_SESSION] = pauses > _PAUSE_RATIO * np.maximum(repeats, 1)
    return found


def _usual(reached: Int64, quantile: float, classes: int) -> tuple[Int64, Int64]:
    """By kind and class the units that have it, and the count that all but `1 - quantile` of these stay within; `int64[2, C]` each.

    An unknown class is never usual.
    """
    cell, times = np.unique(reached, return_counts=True)
    pair, count = np.divmod(cell, MOST + 1)
    kind, code = np.divmod(pair, MAX_CLASSES)
    known = code != UNKNOWN
    kind, code, count, times = kind[known], code[known], count[known], times[known]
    holders, limit = np.zeros((2, classes), np.int64), np.zeros((2, classes), np.int64)
    is_first = count == 1
    holders[kind[is_first], code[is_first]] = times[is_first]
    is_usual = times > (1 - quantile) * holders[kind, code]
    np.maximum.at(limit, (kind[is_usual], code[is_usual]), count[is_usual])
    return holders, limit


def _packed(vectors: Vectors) -> list[bytes]:
    """Each vector that is not empty, as bytes: its classes, then its counts."""
    return [
        np.stack((code, count)).astype("<i8").tobytes()
        for code, count in (vectors[at] for at in range(len(vectors)))
        if len(code)
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
