"""The lines before each line: sliding windows of template numbers, by session inside a service, for a whole batch at once.

What a line sees depends on the lines before it in source order and on their event times only, never on how the lines
were cut into batches nor on when state was freed:

- A session's history is forgotten on touch, when a line comes more than `session_gap_ms` after the session's newest line.
- A line more than `session_gap_ms` older than its service's newest line is late: it sees an empty window and changes nothing.
- So a row whose newest line is more than twice the gap behind its service can be seen by no later line: it is dropped.
- A session may carry a deadline (`wait_ms` after its newest line). Once its service's time passes it and no line of the
  session has come, the session has ended, and that is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from models.session_table import NEVER, NONE, Bools, Int32, Int64, Places, SessionTable, UInt64

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class WindowParams:
    """How long a window is, when a session's history is forgotten, and how much may be kept.

    Units: `session_gap_ms` is event time. Bounds: `max_sessions` rows of about 4·length + 32 bytes and the caller's note;
    `max_services` rows of 16 bytes, besides those of services with open sessions.
    """

    length: int = 10
    session_gap_ms: int = 24 * 3_600_000
    max_sessions: int = 50_000
    max_services: int = 20_000

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 255:
            raise ValueError(f"window length must be 1 to 255, not {self.length}")
        if self.session_gap_ms < 0:
            raise ValueError(f"session_gap_ms must not be negative, and is {self.session_gap_ms}")
        if self.max_sessions < 1 or self.max_services < 1:
            raise ValueError("max_sessions and max_services must be at least 1")

    def build(self, data: bytes | None = None) -> SessionWindows:
        """The windows, empty or as `to_bytes` left them."""
        windows = SessionWindows(self)
        if data:
            windows.apply(data)
            windows.touched()
        return windows


@dataclass(frozen=True, slots=True)
class Ended:
    """Sessions whose deadline passed with no further line.

    Shapes: `windows int32[E, h]` (the last h lines, the newest last, -1 where none), `ts int64[E]` (of the newest line),
    `line int32[E]` (that line's place in this batch, or -1), `notes` (the row's note when `line` is -1, else empty), `key uint64[E]`.
    """

    windows: Int32
    ts: Int64
    key: UInt64
    line: Int32
    notes: list[bytes]

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class WindowStep:
    """What the lines of a batch see.

    Shapes: `windows int32[N, h]` (the h lines before, -1 where none), `is_late bool[N]`, `now int64[N]` (the newest event time of the
    line's service up to and with it); `rows int32[G]` and `last_line int32[G]`: for each session touched its row and its newest line's
    place in the batch, for `put_notes`.
    """

    windows: Int32
    is_late: Bools
    now: Int64
    ended: Ended
    rows: Int32
    last_line: Int32


@dataclass(frozen=True, slots=True)
class _Lines:
    """The columns of one batch on its way through `step`."""

    group: UInt64
    seq: Int32
    ts: Int64
    wait_ms: Int64
    service_row: Int32
    newest: Int64
    is_late: Bools


class SessionWindows:
    """Sliding windows of all sessions of a shard.

    State: per shard, at most `max_sessions` rows. When a new session finds the table full, rows that no line can see are
    dropped; if that frees none, the eighth of the table with the oldest (newest line's time, key) is evicted and counted. Both
    happen at that very line, so the cut into batches does not show. A caller that keeps no state still calls `touched`.

    >>> windows = WindowParams(length=3, session_gap_ms=1000).build()
    >>> step = windows.step([7, 7, 8, 7], [0, 1, 2, 3], [10, 20, 30, 1021], [0, 0, 0, 0], ["cart"])
    >>> step.windows.tolist()
    [[-1, -1, -1], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1]]
    """

    def __init__(self, params: WindowParams) -> None:
        self.params = params
        self.evicted = 0
        self.late = 0
        self._table = SessionTable(params.length)

    def __len__(self) -> int:
        return len(self._table)

    def step(
        self,
        group: npt.ArrayLike,
        seq: npt.ArrayLike,
        ts: npt.ArrayLike,
        service: npt.ArrayLike,
        services: Sequence[str],
        wait_ms: npt.ArrayLike | None = None,
    ) -> WindowStep:
        """The windows before the batch's lines, which then join their sessions.

        Shapes: `group uint64[N]` (the session, or the service's own key for lines without one), `seq int32[N]`, `ts int64[N]`,
        `service int32[N]` (an index into the distinct names `services`), `wait_ms int64[N]` (silence allowed after the line;
        -1: any).
        """
        table = self._table
        groups = np.asarray(group, dtype=np.uint64)
        count = len(groups)
        windows: Int32 = np.full((count, self.params.length), NONE, np.int32)
        nothing: Int32 = np.zeros(0, np.int32)
        if count == 0:
            return WindowStep(windows, np.zeros(0, np.bool_), np.zeros(0, np.int64), self._no_end(), nothing, nothing)
        times = np.asarray(ts, dtype=np.int64)
        keys: UInt64 = np.array([service_key(name) for name in services], np.uint64)
        service_row: Int32 = table.service_rows(keys)[np.asarray(service, dtype=np.intp)]
        newest = self._newest_so_far(service_row, times)
        is_late = times < newest - self.params.session_gap_ms
        waits = np.full(count, -1, np.int64) if wait_ms is None else np.asarray(wait_ms, dtype=np.int64)
        lines = _Lines(groups, np.asarray(seq, dtype=np.int32), times, waits, service_row, newest, is_late)

        ended: list[Ended] = []
        touched = [nothing]
        low = 0
        while low < count:
            high = self._fits_until(lines, low)
            on_time = low + np.flatnonzero(~is_late[low:high])
            if len(on_time):
                rows, ends = self._fill(lines, on_time, windows)
                touched.append(rows)
                ended.append(ends)
            np.maximum.at(table.newest, service_row[low:high], newest[low:high])
            if high < count:
                ended.append(self._make_room())
            low = high
        table.is_service_dirty[service_row] = True
        self.late += int(np.count_nonzero(is_late))
        ended.append(self._overdue())

        rows = touched[1] if len(touched) == 2 else np.unique(np.concatenate(touched))
        rows = rows[table.line[rows] >= 0]
        last_line = table.line[rows]
        table.line[rows] = NONE
        self.expire()
        if not table.is_used[
            rows
        ].all():  # a session whose end was told and whose service has moved on beyond the horizon
            last_line, rows = last_line[table.is_used[rows]], rows[table.is_used[rows]]
        return WindowStep(windows, is_late, newest, self._join(ended), rows, last_line)

    def put_notes(self, rows: Int32, notes: Iterable[bytes]) -> None:
        """Keep a note with each of these rows: whatever the caller needs to name the session and its newest line later."""
        self._table.put_notes(rows, notes)

    def newest(self, service: str) -> int | None:
        """The newest event time seen of a service; None if none is kept."""
        row = self._table.service_row_of.get(service_key(service))
        return None if row is None else int(self._table.newest[row])

    def expire(self) -> int:
        """Drop the rows that no later line can see; gives their number. `step` does this too."""
        table = self._table
        is_behind = (
            table.newest[table.service] - table.last_ts > 2 * self.params.session_gap_ms
            if len(table.key)
            else table.is_used
        )
        rows = np.flatnonzero(is_behind & table.is_used & (table.deadline == NEVER))
        if len(rows):
            table.drop(rows, is_visible=False)
        if len(table.service_row_of) > self.params.max_services:
            table.drop_services(keep=self.params.max_services * 7 // 8)
        return len(rows)

    def drop(self, service: str) -> None:
        """Forget a service and its sessions, as the caller's rule for services long silent says."""
        table = self._table
        row = table.service_row_of.get(service_key(service))
        if row is not None:
            table.drop(np.flatnonzero(table.is_used & (table.service == row)), is_visible=True)
            table.drop_service(service_key(service))

    def touched(self) -> bytes:
        """The rows changed since the last call, for `apply`; empty when none did."""
        return self._table.touched()

    def to_bytes(self) -> bytes:
        """All rows, for `apply` on empty windows."""
        return self._table.to_bytes()

    def apply(self, data: bytes) -> None:
        """Put in the rows of `to_bytes` and then of each later `touched`, in order.

        Raises: ValueError for bytes of another version or window length.
        """
        self._table.apply(data)
        self.expire()

    def check(self) -> None:
        """Raise AssertionError unless the table is whole and within its bounds."""
        self._table.check()
        assert len(self._table) <= self.params.max_sessions
        assert len(self._table.service_row_of) <= self.params.max_services + len(self._table)

    # -- one part of a batch ---------------------------------------------------------------------------------------

    def _newest_so_far(self, service_row: Int32, times: Int64) -> Int64:
        """Each line's service time: the newest event time of its service up to and with this line."""
        start = self._table.newest
        if (service_row == service_row[0]).all():
            only: Int64 = np.maximum(np.maximum.accumulate(times), start[service_row[0]])
            return only
        order = np.argsort(service_row, kind="stable")
        ordered = service_row[order]
        is_first = np.append(True, ordered[1:] != ordered[:-1])
        newest = np.empty_like(times)
        newest[order] = _running_max(times[order], np.cumsum(is_first) - 1, start[ordered[is_first]])
        return newest

    def _fits_until(self, lines: _Lines, low: int) -> int:
        """The first line from `low` on that needs a row when none is free."""
        count = len(lines.group)
        room = max(0, self.params.max_sessions - len(self._table))
        if room >= count - low:
            return count
        on_time = low + np.flatnonzero(~lines.is_late[low:])
        keys, first = np.unique(lines.group[on_time], return_index=True)
        row_of = self._table.row_of
        is_new = np.fromiter((key not in row_of for key in keys.tolist()), np.bool_, len(keys))
        places = np.sort(on_time[first[is_new]])
        return count if len(places) <= room else int(places[room])

    def _fill(self, lines: _Lines, part: Places, windows: Int32) -> tuple[Int32, Ended]:
        """Write the windows of the lines `part` (none late, room for all); gives the rows touched and the sessions ended."""
        table, length = self._table, self.params.length
        at = part[np.argsort(lines.group[part], kind="stable")]  # by session, in source order inside
        keys = lines.group[at]
        is_first = np.append(True, keys[1:] != keys[:-1])
        first = np.flatnonzero(is_first)
        last = np.append(first[1:], len(at)) - 1
        segment = np.cumsum(is_first) - 1
        rows = table.rows(keys[first], lines.service_row[at[first]])

        # A tape: for each session its stored history, then its lines of this batch.
        place = np.arange(len(at)) + (segment + 1) * length
        start = first + np.arange(len(first)) * length
        tape = np.empty(len(at) + len(first) * length, np.int32)
        tape[start[:, None] + np.arange(length)] = table.history[rows]
        tape[place] = lines.seq[at]

        running = _running_max(lines.ts[at], segment, table.last_ts[rows])
        before = _shifted(running, first, table.last_ts[rows])
        is_forgotten = lines.ts[at] - before > self.params.session_gap_ms
        epoch = np.maximum.accumulate(np.where(is_forgotten, place, start[segment]))  # where the visible history begins
        windows[at] = _read(tape, place, epoch, length)

        deadline = np.where(lines.wait_ms[at] >= 0, running + lines.wait_ms[at], NEVER)
        due = _shifted(deadline, first, table.deadline[rows])
        over = np.flatnonzero(lines.newest[at] > due)
        ends = self._no_end()
        if len(over):
            row = rows[segment[over]]
            line = _shifted(at.astype(np.int32), first, table.line[rows])[over]
            epoch_before = _shifted(epoch, first, start)[over]
            key = table.key[row]
            ends = Ended(
                _read(tape, place[over], epoch_before, length), before[over], key, line, self._notes(row, line)
            )

        table.history[rows] = _read(tape, place[last] + 1, epoch[last], length)
        table.last_ts[rows] = running[last]
        table.deadline[rows] = deadline[last]
        table.line[rows] = at[last]
        table.is_dirty[rows] = True
        return rows, ends

    def _overdue(self) -> Ended:
        """The sessions whose deadline their service's time has passed; each is told once."""
        table = self._table
        if not len(table.key):
            return self._no_end()
        rows = np.flatnonzero(table.deadline < table.newest[table.service])
        if not len(rows):
            return self._no_end()
        rows = rows[np.lexsort((table.key[rows], table.last_ts[rows]))]
        table.deadline[rows] = NEVER
        table.is_dirty[rows] = True
        line = table.line[rows]
        return Ended(table.history[rows], table.last_ts[rows], table.key[rows], line, self._notes(rows, line))

    def _make_room(self) -> Ended:
        """Free at least one row, and tell the ends that are due first."""
        table = self._table
        ends = self._overdue()
        self.expire()
        if len(table) >= self.params.max_sessions:
            rows = np.flatnonzero(table.is_used)
            oldest = np.lexsort((table.key[rows], table.last_ts[rows]))[: max(1, self.params.max_sessions // 8)]
            table.drop(rows[oldest], is_visible=True)
            self.evicted += len(oldest)
        return ends

    def _notes(self, rows: npt.NDArray[np.integer[Any]], line: Int32) -> list[bytes]:
        notes = self._table.notes
        return [b"" if at >= 0 else notes[row] for at, row in zip(line.tolist(), rows.tolist(), strict=True)]

    def _no_end(self) -> Ended:
        nothing: Int64 = np.zeros(0, np.int64)
        return Ended(
            np.zeros((0, self.params.length), np.int32), nothing, np.zeros(0, np.uint64), np.zeros(0, np.int32), []
        )

    def _join(self, ended: list[Ended]) -> Ended:
        some = [ends for ends in ended if len(ends)]
        if len(some) <= 1:
            return some[0] if some else self._no_end()
        return Ended(
            np.concatenate([ends.windows for ends in some]),
            np.concatenate([ends.ts for ends in some]),
            np.concatenate([ends.key for ends in some]),
            np.concatenate([ends.line for ends in some]),
            [note for ends in some for note in ends.notes],
        )


@lru_cache(maxsize=100_000)
def service_key(name: str) -> int:
    """The 64-bit key of a service."""
    return xxhash.xxh3_64_intdigest(name.encode())


def _running_max(values: Int64, segment: npt.NDArray[np.integer[Any]], start: Int64) -> Int64:
    """The greatest value so far in each line's segment, begun with `start[segment]`; segments lie one after another."""
    base = int(values.min())
    span = int(values.max()) - base + 1
    if span < 2**62 // (int(segment[-1]) + 1):
        lift = segment * span - base  # each segment lies above the one before it
        running = np.maximum.accumulate(values + lift) - lift
    else:  # times too far apart to lift
        running = values.copy()
        bounds = [*np.flatnonzero(np.diff(segment, prepend=-1)).tolist(), len(values)]
        for low, high in pairwise(bounds):
            running[low:high] = np.maximum.accumulate(values[low:high])
    result: Int64 = np.maximum(running, start[segment])
    return result


def _shifted(values: npt.NDArray[T], first: Places, stored: npt.NDArray[T]) -> npt.NDArray[T]:
    """Each line's value of the line before in its session; for the first line of a session what was stored."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[first] = stored
    return before


def _read(tape: Int32, place: Places, epoch: Places, length: int) -> Int32:
    """The `length` numbers before each place on the tape, -1 before the epoch."""
    reach = place[:, None] + np.arange(-length, 0)
    seen = tape[reach]
    seen[reach < epoch[:, None]] = NONE
    return seen
