"""Following a Loki without gaps and doubles: what to ask next, which lines of an answer are new, what to keep with them. Pure.

```
            final: never read again      read again by every sweep, known entries dropped            not read yet
 ──────────────────────────────────┬──────────────────────────────────────────────────────┬───────────────────────→ entry time
                                 floor                                                   mark
```

A *sweep* begun at time T reads from the floor to T, page by page, and gives what it has not given. After it the floor is T − overlap: whatever
came later than that belongs to an entry at most `overlap` old when it arrived, so the next sweep sees it. Between sweeps *looks* read the newest
part only, for a short delay. Nothing hangs on them.

Each page is one Kafka transaction: its lines, and a note of what they were. So the notes say exactly what was given, whenever the program is
killed. `build` takes up the notes again; those older than the floor are let go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson

from models.errors import DataSetError, SettingsError
from models.logql import LokiQuery, entries_of

VERSION: Final = 1
_HEAD: Final = struct.Struct("<BqqI")  # version, floor, mark, entries


@dataclass(frozen=True)
class LokiTailParams:
    """How a Loki is followed.

    Attributes:
        query: what, where, and how many lines a page may hold; `start_ns` is where the first run begins.
        overlap_ns: how late, against its own time, an entry may arrive in Loki and still be given.
        sweep_ns: between two sweeps.
        look_ns: what a look reads before the mark.
        max_known: entries between the floor and the mark; more than that are no delay but a flood.
    """

    query: LokiQuery
    overlap_ns: int = 120 * 10**9
    sweep_ns: int = 60 * 10**9
    look_ns: int = 5 * 10**9
    max_known: int = 4_000_000

    def __post_init__(self) -> None:
        if min(self.overlap_ns, self.sweep_ns, self.look_ns) < 0 or self.max_known < 1:
            raise SettingsError("Loki cannot be followed: overlap, sweep and look must not be negative.")

    def build(self, notes: Iterable[tuple[int, bytes]] = ()) -> LokiTail:
        """A tail at its beginning, or where the notes of an earlier one left off, as (number, bytes)."""
        return LokiTail(self, notes)


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the topic: `key` keeps the lines of a service on one partition, in order."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class TailPage:
    """What one answer gave; all of it goes into one transaction, or nothing.

    Attributes:
        lines: new ones, oldest first.
        number, note: to be kept under that number; empty where there is nothing to keep.
        dropped: numbers of notes that are needed no longer.
    """

    lines: list[Line]
    number: int
    note: bytes
    dropped: list[int]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """A reading under way: `at_ns` is where the next page begins, `limit` how many lines it may hold."""

    at_ns: int
    end_ns: int
    is_full: bool
    limit: int


class LokiTail:
    """Follows one query: `begin`, then `request` and `step` until there is no request.

    State: floor and mark; key → time of the entries given since the floor, at most `max_known`; by number of a note the time of its newest entry.
    """

    def __init__(self, params: LokiTailParams, notes: Iterable[tuple[int, bytes]] = ()) -> None:
        self.params = params
        self.floor_ns = self.mark_ns = params.query.start_ns
        self._known: dict[int, int] = {}
        self._notes: dict[int, int] = {}
        self._number = -1  # of the newest note
        self._noted_floor_ns = self.floor_ns
        self._swept_ns: int | None = None
        self._sweep: _Sweep | None = None
        self.given = 0
        for number, note in sorted(notes):
            self._take_up(number, note)
        self._forget()

    def _take_up(self, number: int, note: bytes) -> None:
        version, floor_ns, mark_ns, count = _HEAD.unpack_from(note)
        if version != VERSION:
            raise DataSetError(
                f"The cursor is of version {version}, this program reads {VERSION}; go on with the program that wrote it, or choose another --name."
            )
        times = np.frombuffer(note, np.int64, count, _HEAD.size)
        keys = np.frombuffer(note, np.uint64, count, _HEAD.size + 8 * count)
        self._known.update(zip(keys.tolist(), times.tolist(), strict=True))
        self._notes[number] = int(times.max()) if count else floor_ns - 1
        self._number, self.floor_ns, self.mark_ns = number, floor_ns, mark_ns
        self._noted_floor_ns = floor_ns

    @property
    def is_new(self) -> bool:
        """True where there were no notes."""
        return self._number < 0

    def begin(self, now_ns: int) -> None:
        """Begin to read up to `now_ns`: a sweep where one is due, else a look."""
        is_full = self._swept_ns is None or now_ns - self._swept_ns >= self.params.sweep_ns
        at_ns = self.floor_ns if is_full else max(self.floor_ns, self.mark_ns - self.params.look_ns)
        self._sweep = _Sweep(at_ns, now_ns, is_full, self.params.query.limit) if at_ns < now_ns else None

    def request(self) -> dict[str, str] | None:
        """The parameters of the next request; None when all up to `now_ns` is read."""
        sweep, query = self._sweep, self.params.query
        if sweep is None:
            return None
        return {
            "query": query.query,
            "start": str(sweep.at_ns),
            "end": str(self._page_end(sweep)),
            "direction": "forward",
            "limit": str(sweep.limit),
        }

    def _page_end(self, sweep: _Sweep) -> int:
        return min(sweep.at_ns + self.params.query.window_ns, sweep.end_ns)

    def step(self, body: bytes) -> TailPage:
        """The new lines of the answer to the last request.

        Raises:
            DataSetError: no answer of Loki's to a log query; more entries share one nanosecond than it gives at once; more are open than may be.
        """
        sweep = self._sweep
        assert sweep is not None, "step answers a request"
        query = self.params.query
        entries = entries_of(body)
        fresh = [entry for entry in entries if entry[0] >= self.floor_ns and entry[1] not in self._known]
        if len(entries) < sweep.limit:
            at_ns, limit = self._page_end(sweep), query.limit
        else:
            at_ns, limit = entries[-1][0], query.limit
            if at_ns == sweep.at_ns:  # no way past this nanosecond but a larger page
                limit = sweep.limit if fresh else self._larger(sweep)
        self._sweep = _Sweep(at_ns, sweep.end_ns, sweep.is_full, limit) if at_ns < sweep.end_ns else None
        self._known.update((key, time_ns) for time_ns, key, _ in fresh)
        self.mark_ns = max(self.mark_ns, at_ns)
        if sweep.is_full:
            # What arrives from now on is at most `overlap` older than the begin of this sweep, and what is below `at_ns` was read in it.
            floor_ns = min(at_ns, sweep.end_ns - self.params.overlap_ns)
            if floor_ns > self.floor_ns:
                self.floor_ns = floor_ns
                self._forget()
            if self._sweep is None:
                self._swept_ns = sweep.end_ns
        if len(self._known) > self.params.max_known:
            raise DataSetError(
                f"More than {self.params.max_known:,} lines came within the overlap of {self.params.overlap_ns / 1e9:g} s. Lower --overlap, or "
                "narrow the query and follow its parts by several programs."
            )
        self.given += len(fresh)
        return self._page(fresh, is_end=sweep.is_full and self._sweep is None)

    def _forget(self) -> None:
        self._known = {key: time_ns for key, time_ns in self._known.items() if time_ns >= self.floor_ns}

    def _larger(self, sweep: _Sweep) -> int:
        query = self.params.query
        if sweep.limit >= query.max_limit:
            raise DataSetError(
                f"{sweep.limit} lines or more of the query share the time {sweep.at_ns} ns, and Loki gives {query.max_limit} at once. "
                "Narrow the query by a label and follow its parts by several programs, or raise Loki's max_entries_limit_per_query and "
                "?max_limit= with it. Nothing is lost: the next start goes on here."
            )
        return min(2 * sweep.limit, query.max_limit)

    def _page(self, fresh: list[tuple[int, int, bytes]], *, is_end: bool) -> TailPage:
        """The new lines, and a note where there are any, or where a sweep without any has moved the floor."""
        if not fresh and not (is_end and self.floor_ns > self._noted_floor_ns):
            return TailPage([], self._number, b"", [])
        self._number += 1
        times = np.array([time_ns for time_ns, _, _ in fresh], np.int64)
        keys = np.array([key for _, key, _ in fresh], np.uint64)
        note = _HEAD.pack(VERSION, self.floor_ns, self.mark_ns, len(fresh)) + times.tobytes() + keys.tobytes()
        self._notes[self._number] = int(times.max()) if fresh else self.floor_ns - 1
        self._noted_floor_ns = self.floor_ns
        # The newest note holds the floor itself.
        dropped = [
            number for number, newest in self._notes.items() if newest < self.floor_ns and number != self._number
        ]
        for number in dropped:
            del self._notes[number]
        return TailPage([Line(_key(record), record) for _, _, record in fresh], self._number, note, dropped)

    def check(self) -> None:
        """Passes while the state keeps its bounds."""
        assert self.floor_ns <= self.mark_ns
        assert len(self._known) <= self.params.max_known
        assert all(time_ns >= self.floor_ns for time_ns in self._known.values())


def _key(record: bytes) -> bytes:
    """The service of a record, by the labels of Loki; a source without any keeps its lines in one place by its other labels.

    >>> _key(b'{"service_name":"cart","message":"hi"}'), _key(b'{"app":"cart","pod":"cart-1","message":"hi"}')
    (b'cart', b'cart')
    """
    fields = orjson.loads(record)
    for name in ("service_name", "service.name", "service", "app", "container", "job"):
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value.encode()
    return b"unknown_service"
