"""Workflow: a step that the graph of learned steps does not allow, a step left out, or one that took far too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.deeplog import PADDING, UNKNOWN
from models.detectors.contract import (
    DIGITS,
    Corpus,
    Evidence,
    Int32,
    Learned,
    Report,
    Scores,
    Seen,
    quiet,
)
from models.detectors.distinct import DistinctRows
from models.detectors.rows import DetectorWithRows, Rows
from models.detectors.words import quoted
from models.detectors.workflow_graph import Graph, count_graph, is_step
from models.errors import SettingsError

Float64 = npt.NDArray[np.float64]

_RECORD: Final = np.dtype([("touched_ms", "<i8"), ("service", "<u8")])  # the session's newest line in source order
_FAR: Final = 2.0  # a transition is slow from this many times its longest normal time on …
_SLOW_WEIGHT: Final = 2.0  # … and ten times the longest weighs as much as a step met once in this many decades
_EXPECTED: Final = 3  # classes named in an explanation


@dataclass(frozen=True)
class WorkflowParams:
    """How much is needed and kept.

    Attributes:
        min_sessions: fewer sessions than this teach nothing.
        max_sessions: sessions whose newest time is kept, per shard; 24 bytes each.
    """

    name: ClassVar[str] = "workflow"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "order"
    is_fitted_once: ClassVar[bool] = False
    is_service_wide: ClassVar[bool] = False

    min_sessions: int = 50
    max_sessions: int = 50_000

    def __post_init__(self) -> None:
        if self.min_sessions < 1 or self.max_sessions < 1:
            raise SettingsError("workflow: min_sessions and max_sessions must be at least 1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The workflow graph of all sessions; see workflow_graph.py.

        Raises: DataSetError for fewer than `min_sessions` sessions.
        """
        return count_graph(corpus, self.min_sessions, report)

    def build(self, learned: Learned, names: Sequence[str]) -> Workflow:
        """The detector.

        Raises: ValueError if the graph does not hold together.
        """
        return Workflow(Graph.from_learned(learned, names), names, self.max_sessions)


class Workflow(DetectorWithRows):
    """Score: the strangest of a transition never seen, an order of two steps never seen, and a required step left out; slowness on top.

    Each is −log10 of the share it had while learning, divided by 1 + the times it was met (workflow_graph.py): a new successor of a step that
    was always left in the same few ways weighs much, one of a step with ever new successors little, and one that changes only the order of steps
    which interleave anyway a quarter of that. A transition slower than twice its longest normal time adds 2·log10 of their ratio.
    Lines without session, late ones and unknown ones are not judged.

    State: per session the time of its newest line, 24 bytes; at most `max_sessions`, the longest silent making room.

    Source: Du et al., DeepLog (CCS 2017), section 4; the time of a transition as in Yu et al., CloudSeer (ASPLOS 2016).
    """

    def __init__(self, graph: Graph, names: Sequence[str], max_sessions: int) -> None:
        self._graph = graph
        self._names = names
        self._rows = Rows(_RECORD, max_sessions)
        self._scores = DistinctRows(graph.score)
        self._waited: Float64 = np.zeros(0)

    def step(self, seen: Seen) -> Scores:
        """The scores; each session's newest time moves on."""
        self._waited = self._wait_ms(seen)
        steps = np.flatnonzero(is_step(seen) & (seen.code != UNKNOWN))
        line = np.full(len(seen), np.nan, np.float32)
        slow = self._slowness(seen.windows[steps, -1], seen.code[steps], self._waited[steps])
        line[steps] = (self._scores.score(seen.windows[steps], seen.code[steps]) + slow).round(DIGITS)
        end = np.full(len(seen.ends), self._graph.end, np.int32)
        return Scores(line, self._scores.score(seen.ends.windows, end))

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """What was learned of the strangest thing about this step."""
        window = (seen.ends.windows if is_end else seen.windows)[at]
        code = self._graph.end if is_end else int(seen.code[at])
        if code == UNKNOWN:
            return Evidence("A line of no template known is no step of the workflow.")
        windows, following = window[None, :], np.array([code], np.int32)
        transition = float(self._graph.transition(windows, following)[0])
        order, missing = self._graph.order(windows, following)[0], self._graph.missing(windows, following)[0]
        waited = np.array([np.nan]) if is_end else self._waited[at : at + 1]
        slow = float(self._slowness(window[-1:], following, waited)[0])
        worst = max(transition, float(order.max()), float(missing.max()))
        expected = self._successors(int(window[-1]))
        if slow > worst:
            longest = int(self._graph.longest_ms[self._graph.edge(window[-1:], following)[0]])
            sentence = f"This line came {waited[0]:,.0f} ms after {quoted(self._names, int(window[-1]))}; {longest:,} ms is the longest that is normal."
        elif worst == 0 or worst == transition:
            sentence = self._about_transition(int(window[-1]), code)
        elif worst == missing.max():
            step = int(self._graph.required[0][code, int(missing.argmax())])
            sentence = self._about_missing(step, code, len(window))
            expected = [(step, 1.0), *expected]
        else:
            sentence = self._about_order(int(window[int(order.argmax())]), code, len(window))
        return Evidence(sentence, expected=expected)

    def _wait_ms(self, seen: Seen) -> Float64:
        """The time from the line before in the session; NaN where there is none; `float64[N]`."""
        waited: Float64 = np.full(len(seen), np.nan)
        steps = np.flatnonzero(is_step(seen))
        if not len(steps):
            return waited
        at = steps[np.argsort(seen.key[steps], kind="stable")]
        keys, ts = seen.key[at], seen.ts[at]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        last = np.append(first[1:], len(at)) - 1
        rows = self._rows.at(keys[first])
        data = self._rows.data
        before = np.empty(len(at), np.int64)
        before[1:] = ts[:-1]
        before[first] = data["touched_ms"][rows]
        has_before = np.ones(len(at), np.bool_)
        has_before[first] = self._rows.data["service"][rows] != 0  # a new row is all zero
        waited[at] = np.where(has_before & (seen.windows[at, -1] != PADDING), np.maximum(0, ts - before), np.nan)
        data["touched_ms"][rows] = ts[last]
        data["service"][rows] = seen.service[at[last]]
        self._rows.is_dirty[rows] = True
        return waited

    def _slowness(self, before: Int32, after: Int32, waited: Float64) -> Float64:
        """What the time of each transition adds; `float64[B]`."""
        place = self._graph.edge(before, after)
        longest = np.where(place >= 0, self._graph.longest_ms[place], -1)
        ratio = np.where((longest > 0) & ~np.isnan(waited), waited / np.maximum(longest, 1), 0.0)
        added: Float64 = np.where(ratio > _FAR, _SLOW_WEIGHT * np.log10(np.maximum(ratio, 1.0)), 0.0)
        return added

    def _successors(self, code: int) -> list[tuple[int, float]]:
        """The usual successors of a class, with their shares."""
        part = np.flatnonzero(self._graph.edges[:, 0] == code)
        counts = self._graph.edge_count[part]
        order = np.argsort(-counts, kind="stable")[:_EXPECTED]
        total = max(1, int(counts.sum()))
        return [(int(self._graph.edges[part[at], 1]), round(int(counts[at]) / total, DIGITS)) for at in order]

    def _about_transition(self, before: int, code: int) -> str:
        if before == UNKNOWN:
            return f"{self._subject(code)} comes right after an unknown line, and otherwise as always."
        part = self._graph.edges[:, 0] == before
        left, ways = int(self._graph.edge_count[part].sum()), int(part.sum())
        place = int(self._graph.edge(np.array([before], np.int32), np.array([code], np.int32))[0])
        times = "never" if place < 0 else f"{int(self._graph.edge_count[place]):,} times"
        return (
            f"{self._subject(code)} comes right after {quoted(self._names, before)}, which was followed {left:,} times in "
            f"{ways:,} {'way' if ways == 1 else 'ways'} while learning, {times} in this one."
        )

    def _about_missing(self, step: int, code: int, length: int) -> str:
        there = int(self._graph.within(np.array([step], np.int32), np.array([code], np.int32))[0])
        return (
            f"{quoted(self._names, step)} is not among the {length} lines before {self._subject(code).lower()}, as it was in "
            f"{there:,} of {int(self._graph.lines[code]):,} cases."
        )

    def _about_order(self, before: int, code: int, length: int) -> str:
        there, back = (
            int(self._graph.within(np.array([one], np.int32), np.array([other], np.int32))[0])
            for one, other in ((before, code), (code, before))
        )
        times = "never" if there == 0 else f"{there:,} times"
        if back > there:
            return (
                f"{self._subject(code)} comes after {quoted(self._names, before)}; while learning it came {times} after and "
                f"{back:,} times before it within {length} lines."
            )
        return f"{self._subject(code)} was {times} within {length} lines after {quoted(self._names, before)} while learning, though both are frequent."

    def _subject(self, code: int) -> str:
        return "The session's end" if code == self._graph.end else "This line"
