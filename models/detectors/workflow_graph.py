"""The workflow graph: which step follows which, in what order steps come at all, and how long a transition takes.

Everything is counted on the distinct (window, next) rows of sessions, because a window is all that a line is judged by:

```
edges   a → b    b came right after a                    count, usual and longest time
pairs   a … b    a was among the h lines before b        count: the order of a and b is fixed, free (concurrent), or they exclude each other
lines   b        how often b came                        with pairs: which steps must lie before b
```

Source: Du et al., DeepLog (CCS 2017), section 4 (workflow construction from co-occurrence within a distance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import Bools, Corpus, Float32, Int32, Int64, Learned, Report, Seen
from models.detectors.rows import mix
from models.errors import DataSetError

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_REQUIRED: Final = 1.0  # a step must lie before another if its absence would weigh at least this much
_FREE_RATIO: Final = 0.05  # the order of a pair is free if the rarer order has at least this share of the other
_FEW_TIMES: Final = 20  # a transition seen less often has no normal time
_SPREADS: Final = 4.0  # the longest normal time lies this many deviations (of its logarithm) above the median …
_LEAST_SPREAD: Final = 0.1  # … each of at least this many decades …
_QUANTILE: Final = 0.995  # … and not below this quantile …
_LEAST_MS: Final = 1_000.0  # … nor below the resolution of many log clocks
_CONCURRENT, _SKIPPING = (
    0.25,
    0.5,
)  # what a new transition weighs in a pair of free order, and in one whose order is kept


@dataclass(frozen=True, eq=False)
class Graph:
    """What was counted, and how strange a step is by it.

    Shapes: `edges int32[E, 2]`, `edge_count int64[E]`, `usual_ms`, `longest_ms int64[E]` (−1: not known); `pairs int32[P, 2]`,
    `pair_count int64[P]`; by class, the session's end being the last: `lines int64[C]` (how often it came) and `holding int64[C]`
    (how many windows held it). Edges and pairs are sorted.
    """

    edges: Int32
    edge_count: Int64
    usual_ms: Int64
    longest_ms: Int64
    pairs: Int32
    pair_count: Int64
    lines: Int64
    holding: Int64

    @classmethod
    def from_learned(cls, learned: Learned, names: Sequence[str]) -> Graph:
        """The graph of an artefact.

        Raises: ValueError if it does not hold together.
        """
        graph = cls(**{name: np.asarray(array) for name, array in learned.arrays.items()})
        for table, columns in (
            (graph.edges, (graph.edge_count, graph.usual_ms, graph.longest_ms)),
            (graph.pairs, (graph.pair_count,)),
        ):
            if table.ndim != 2 or table.shape[1] != 2 or any(column.shape != table.shape[:1] for column in columns):
                raise ValueError("workflow: a table's columns differ in length")
            if (table < 0).any() or (table > len(names)).any() or (np.diff(_keys(table, len(names) + 1)) <= 0).any():
                raise ValueError("workflow: a table is not sorted, or has a class out of range")
        if graph.lines.shape != graph.holding.shape or graph.lines.shape != (len(names) + 1,):
            raise ValueError("workflow: the counts by class do not fit the names")
        return graph

    @property
    def end(self) -> int:
        """The class of a session's end."""
        return len(self.lines) - 1

    def edge(self, before: Int32, after: Int32) -> Places:
        """Where each transition is in `edges`; −1 if it was never seen."""
        return _find(self._edge_keys, _keys(np.column_stack((before, after)), len(self.lines)))

    def within(self, before: Int32, after: Int32) -> Int64:
        """How often `before` was among the lines before `after`; any shape."""
        place = _find(self._pair_keys, before.astype(np.int64) * len(self.lines) + after)
        if not len(self.pair_count):
            return np.zeros(place.shape, np.int64)
        found: Int64 = np.where(place >= 0, self.pair_count[place], 0)
        return found

    def left(self, code: Int32) -> Float64:
        """How often each class was left, for each class that ever followed it."""
        ways = np.bincount(self.edges[:, 0], minlength=len(self.lines))
        times = np.bincount(self.edges[:, 0], weights=self.edge_count, minlength=len(self.lines))
        mean: Float64 = np.maximum(times, self.lines)[code] / np.maximum(ways, 1)[code]
        return mean

    def transition(self, windows: Int32, following: Int32) -> Float64:
        """How strange it is that this class comes right after the one before; 0 after an unknown line. `float64[D]`."""
        before = windows[:, -1]
        place = self.edge(before, following)
        weight = strength(np.where(place >= 0, self.edge_count[place], 0), self.left(before))
        there, back = self.within(before, following), self.within(following, before)
        is_inner = (before >= FIRST_TEMPLATE) & (following != self.end) & (there > 0)
        is_free = is_inner & (np.minimum(there, back) >= _FREE_RATIO * np.maximum(there, back))
        weight *= np.where(is_free, _CONCURRENT, np.where(is_inner, _SKIPPING, 1.0))
        weight[before == UNKNOWN] = 0.0
        return weight

    def order(self, windows: Int32, following: Int32) -> Float64:
        """How strange it is that this class comes after each line of its window at all; `float64[D, h]`."""
        after = np.broadcast_to(following[:, None], windows.shape)
        chance = self.lines[after] * (
            self.holding[windows] / max(1, int(self.lines.sum()))
        )  # if the two were independent
        expected = np.maximum(self.within(after, windows), chance)
        weight = strength(self.within(windows, after), expected)
        weight[windows < FIRST_TEMPLATE] = 0.0
        return weight

    def missing(self, windows: Int32, following: Int32) -> Float64:
        """How strange it is that each required step (`required` of the class) is not in the window; `float64[D, K]`.

        An unknown line in the window may be the one that is missed, in other words.
        """
        steps, weight = self.required
        steps = steps[following]  # [D, K]
        is_there = (steps[:, :, None] == windows[:, None, :]).any(axis=2)
        unknown = (windows == UNKNOWN).sum(axis=1)
        found: Float64 = np.where(is_there | (steps == PADDING), 0.0, weight[following] / (1 + unknown[:, None]))
        return found

    @cached_property
    def required(self) -> tuple[Int32, Float64]:
        """By class, the steps that lie in its window nearly always, and what the absence of each weighs; `[C, K]`, filled up with 0."""
        after = self.pairs[:, 1]
        weight = strength(self.lines[after] - self.pair_count, self.lines[after].astype(np.float64))
        kept = np.flatnonzero(weight >= _REQUIRED)
        kept = kept[np.argsort(after[kept], kind="stable")]
        counts = np.bincount(after[kept], minlength=len(self.lines))
        number = np.arange(len(kept)) - np.repeat(np.cumsum(counts) - counts, counts)
        steps = np.zeros((len(self.lines), max(1, int(counts.max(initial=0)))), np.int32)
        weights = np.zeros(steps.shape)
        steps[after[kept], number] = self.pairs[kept, 0]
        weights[after[kept], number] = weight[kept]
        return steps, weights

    def score(self, windows: Int32, following: Int32) -> Float32:
        """The strangest of all that is said above; `windows int32[D, h]`, `following int32[D]` → `float32[D]`."""
        parts = (self.order(windows, following), self.missing(windows, following))
        most = np.maximum.reduce([self.transition(windows, following), *(part.max(axis=1) for part in parts)])
        found: Float32 = most.astype(np.float32)
        return found

    @cached_property
    def _edge_keys(self) -> Int64:
        return _keys(self.edges, len(self.lines))

    @cached_property
    def _pair_keys(self) -> Int64:
        return _keys(self.pairs, len(self.lines))


def strength(count: npt.NDArray[Any], of: Float64) -> Float64:
    """How strange it is to meet what was met `count` times where about `of` would have been the rule, or at chance.

    −log10 of its share, which counts the less the oftener it was met.

    >>> strength(np.array([0, 0, 5, 900]), np.array([1000.0, 3.0, 1000.0, 1000.0])).round(2).tolist()
    [3.3, 0.9, 0.38, 0.0]
    """
    surprise: Float64 = np.maximum(0.0, -np.log10((count + 0.5) / (of + 1))) / (1 + count)
    return surprise


def count_graph(corpus: Corpus, min_sessions: int, report: Report) -> Learned:
    """The arrays of a `Graph`, and how many sessions it was counted on.

    Raises: DataSetError for fewer than `min_sessions` sessions.
    """
    end = len(corpus.names)
    rows = [np.zeros((0, corpus.length + 1), np.int32)]
    parts = []
    for seen in corpus.batches:
        taught = seen.take(np.flatnonzero(is_step(seen)))
        parts.append((taught.key, taught.ts, taught.windows[:, -1], taught.code))
        rows.append(np.column_stack((taught.windows, taught.code)))
        rows.append(np.column_stack((seen.ends.windows, np.full(len(seen.ends), end, np.int32))))
    key, ts, before, code = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    sessions = len(np.unique(key))
    if sessions < min_sessions:
        raise DataSetError(f"workflow: {sessions} sessions; at least {min_sessions} are needed.")
    report("counting steps", 0.2, None)

    every = np.concatenate(rows)
    every = every[every[:, -1] != UNKNOWN]
    _, place, count = np.unique(mix(*every.T), return_index=True, return_counts=True)
    windows, following = every[place, :-1], every[place, -1]
    edges, edge_count = _counted(windows[:, -1], following, count, end)
    report("counting the order of steps", 0.5, None)
    held = np.sort(windows, axis=1)
    held[:, 1:][held[:, 1:] == held[:, :-1]] = PADDING  # a class counts once a window
    row, column = np.nonzero(held >= FIRST_TEMPLATE)
    pairs, pair_count = _counted(held[row, column], following[row], count[row], end)
    report("measuring transitions", 0.8, None)
    usual, longest = _times(edges, key, ts, before, code, end)
    arrays: dict[str, npt.NDArray[Any]] = {
        "edges": edges,
        "edge_count": edge_count,
        "usual_ms": usual,
        "longest_ms": longest,
        "pairs": pairs,
        "pair_count": pair_count,
        "lines": np.bincount(following, weights=count, minlength=end + 1).astype(np.int64),
        "holding": np.bincount(held[row, column], weights=count[row], minlength=end + 1).astype(np.int64),
    }
    return Learned(arrays, {"sessions": sessions})


def is_step(seen: Seen) -> Bools:
    """Which lines are steps of a session, on time."""
    steps: Bools = seen.has_session & ~seen.is_late
    return steps


def _counted(before: Int32, after: Int32, count: Int64, end: int) -> tuple[Int32, Int64]:
    """The distinct pairs with both classes known or a session's start, sorted, and the sum of the counts of each."""
    kept = before != UNKNOWN
    pairs = np.column_stack((before[kept], after[kept])).astype(np.int32)
    keys, place, inverse = np.unique(_keys(pairs, end + 1), return_index=True, return_inverse=True)
    sums = np.bincount(inverse.ravel(), weights=count[kept], minlength=len(keys))
    return pairs[place], sums.astype(np.int64)


def _times(
    edges: Int32, key: npt.NDArray[np.uint64], ts: Int64, before: Int32, code: Int32, end: int
) -> tuple[Int64, Int64]:
    """The usual and the longest normal time of each edge, ms; −1 for one measured less than `_FEW_TIMES` times.

    The longest lies `_SPREADS` robust deviations of the time's logarithm above the median.
    """
    order = np.argsort(key, kind="stable")
    later, earlier = order[1:], order[:-1]
    kept = (key[later] == key[earlier]) & (before[later] >= FIRST_TEMPLATE) & (code[later] != UNKNOWN)
    later, earlier = later[kept], earlier[kept]
    decades = np.log10(1.0 + np.maximum(0, ts[later] - ts[earlier]))
    edge = _find(_keys(edges, end + 1), _keys(np.column_stack((before[later], code[later])), end + 1))
    count = np.bincount(edge, minlength=len(edges))
    middle = _quantiles(decades, edge, count, 0.5)
    spread = (
        _quantiles(np.abs(decades - middle[edge]), edge, count, 0.5) * 1.4826
    )  # of a normal distribution's deviation
    limit = np.maximum(
        middle + _SPREADS * np.maximum(spread, _LEAST_SPREAD), _quantiles(decades, edge, count, _QUANTILE)
    )
    is_measured = count >= _FEW_TIMES
    usual = np.where(is_measured, np.rint(10**middle - 1), -1)
    longest = np.where(is_measured, np.maximum(np.rint(10**limit - 1), _LEAST_MS), -1)
    return usual.astype(np.int64), longest.astype(np.int64)


def _quantiles(values: Float64, group: Places, count: Int64, share: float) -> Float64:
    """A quantile of the values of each group; 0 for an empty one."""
    ordered = np.append(values[np.lexsort((values, group))], 0.0)
    at = np.cumsum(count) - count + (share * np.maximum(count - 1, 0)).astype(np.int64)
    found: Float64 = np.where(count > 0, ordered[at], 0.0)
    return found


def _keys(pairs: Int32, classes: int) -> Int64:
    """One number a pair, which sorts as the pairs do."""
    keys: Int64 = pairs[:, 0].astype(np.int64) * classes + pairs[:, 1]
    return keys


def _find(table: Int64, keys: Int64) -> Places:
    """Where each key is in the sorted table; −1 where it is not."""
    if not len(table):
        return np.full(keys.shape, -1, np.intp)
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[place] == keys, place, -1)
