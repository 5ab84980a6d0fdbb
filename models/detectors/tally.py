"""How often each class came so far: in a line's session or, for lines without one, in its service's minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.deeplog import PADDING
from models.detectors.contract import Bools, Int32, Int64, Seen, UInt64
from models.detectors.rows import Places, Rows, mix
from models.detectors.runs import begins, ranks, running_max, shifted, spans

SLOTS: Final = 24  # classes counted in a session; a line of a further class counts as the first of its kind
MOST: Final = 65_535  # counts stop here
MAX_CLASSES: Final = 65_536
_MINUTE_MS: Final = 60_000
_Cells = tuple[Places, Int32, Int64]  # number of the vector, class, count
_RECORD: Final = np.dtype(
    [
        ("touched_ms", "<i8"),  # the service's time at the newest line
        ("newest_ms", "<i8"),  # the newest event time of its lines
        ("lines", "<i8"),  # of it so far
        ("service", "<u8"),
        ("code", "<u2", (SLOTS,)),  # 0: free
        ("count", "<u2", (SLOTS,)),
        ("is_partial", "u1"),  # the session began before it was counted
    ]
)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Sparse count vectors, one after another: vector i lies at `start[i]` up to `start[i + 1]`, its classes ascending.

    Shapes: `start int64[V + 1]`, `code int32[K]`, `count int64[K]`.
    """

    start: Int64
    code: Int32
    count: Int64

    def __len__(self) -> int:
        return len(self.start) - 1

    def totals(self) -> Int64:
        """The sum of each vector's counts; `int64[V]`."""
        sums = np.append(0, np.cumsum(self.count))
        totals: Int64 = sums[self.start[1:]] - sums[self.start[:-1]]
        return totals

    def __getitem__(self, at: int) -> tuple[Int32, Int64]:
        part = slice(int(self.start[at]), int(self.start[at + 1]))
        return self.code[part], self.count[part]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted in a batch.

    Shapes: `count int64[N]` lines of the line's class so far, with it (0 for late lines); `length int64[N]` lines of the session so
    far, with it; `is_begin bool[N]` the first line of a
    session, or of the classes that share a row in a minute; `ends`: what each ended session had counted, empty where that is forgotten,
    or where the session began before it was counted, as with a model that has just replaced another.
    """

    count: Int64
    length: Int64
    is_begin: Bools
    ends: Vectors


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a batch that are not late, sorted by key, in source order inside.

    Shapes: `order` places in the batch; `first` where each key begins; `run` which key; `row` of each key and `stored`, what that held before the
    batch; `newest` event time of the key so far; `epoch` which stretch without a break, `epoch_first` where each begins and `continues`
    whether it goes on from `stored`; `count`, and `is_kept`: the class has a slot.
    """

    order: Places
    keys: UInt64
    first: Places
    run: Places
    row: Places
    stored: npt.NDArray[np.void]
    newest: Int64
    epoch: Places
    epoch_first: Places
    continues: Bools
    count: Int64
    length: Int64
    is_kept: Bools
    is_partial: Bools  # of each epoch


class Tally:
    """Counts by session and class, and by service, minute and class.

    A session is forgotten when its service's time has moved on by more than `session_gap_ms` since its newest line; a minute when the next
    begins. Late lines change nothing.

    State: per shard, at most `max_rows` rows of 137 bytes: one a session, and for lines without session one for each service and
    24 classes; beyond, the longest untouched are evicted.
    """

    def __init__(self, session_gap_ms: int, max_rows: int) -> None:
        self.rows = Rows(_RECORD, max_rows)
        self._gap_ms = session_gap_ms

    def step(self, seen: Seen) -> Counted:
        """The counts with each line of the batch, and those of the sessions that ended."""
        lines = self._count(seen, np.flatnonzero(~seen.is_late))
        count = np.zeros(len(seen), np.int64)
        count[lines.order] = lines.count
        is_begin = np.zeros(len(seen), np.bool_)
        is_begin[lines.order[lines.epoch_first[~lines.continues]]] = True
        length = np.zeros(len(seen), np.int64)
        length[lines.order] = lines.length
        return Counted(count, length, is_begin, self._ended(seen, lines))

    def sessions(self, keys: UInt64) -> Vectors:
        """What these sessions have counted by now; empty for those not known."""
        rows = self.rows.find(keys)
        return _vectors(len(keys), _slots(self.rows.data[rows[rows >= 0]], np.flatnonzero(rows >= 0)))

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole: slots fill from the front, with a count each."""
        self.rows.check()
        data = self.rows.data[self.rows.is_used]
        is_taken = data["code"] > 0
        assert ((data["count"] > 0) == is_taken).all()
        assert (is_taken[:, :-1] >= is_taken[:, 1:]).all()

    def _count(self, seen: Seen, live: Places) -> _Lines:
        has_session = seen.has_session[live]
        key = seen.key[live]
        if not has_session.all():
            key = np.where(has_session, key, mix(seen.service[live], seen.code[live] // SLOTS))
        by_key = np.argsort(key, kind="stable")
        order, key, has_session = live[by_key], key[by_key], has_session[by_key]
        is_first = begins(key)
        first, run = np.flatnonzero(is_first), np.cumsum(is_first) - 1
        row = self.rows.at(key[first])
        stored = self.rows.data[row]

        now = seen.now[order]
        before = shifted(now, first, stored["touched_ms"])
        is_over = np.where(has_session, now - before > self._gap_ms, now // _MINUTE_MS != before // _MINUTE_MS)
        is_over[first] |= stored["code"][:, 0] == 0
        is_break = is_first | is_over
        epoch, epoch_first = np.cumsum(is_break) - 1, np.flatnonzero(is_break)
        continues = ~is_over[epoch_first]
        begun_with = np.where(continues, stored["lines"][run[epoch_first]], 0)
        length = begun_with[epoch] + ranks(epoch_first, len(order)) + 1
        has_past = has_session & (seen.windows[order, -1] != PADDING)
        is_partial = np.where(continues, stored["is_partial"][run[epoch_first]] > 0, has_past[epoch_first])

        # Kinds: the distinct (epoch, class). Each has a slot: the one that the row has for it, or the next one free.
        pair = epoch * MAX_CLASSES + seen.code[order]
        by_pair = np.argsort(pair, kind="stable")
        is_kind = begins(pair[by_pair])
        kind_first, kind = np.flatnonzero(is_kind), np.cumsum(is_kind) - 1
        place = by_pair[kind_first]  # of the kind's first line
        kind_run, kind_epoch, kind_code = run[place], epoch[place], seen.code[order[place]]
        held = stored["code"][kind_run] == kind_code[:, None]  # [K, SLOTS]
        slot = held.argmax(axis=1)
        is_held = held[np.arange(len(slot)), slot] & continues[kind_epoch]
        base = np.where(is_held, stored["count"][kind_run, slot].astype(np.int64), 0)
        new = np.flatnonzero(~is_held)
        new = new[np.argsort(place[new])]  # by epoch, inside it by first line
        used = np.where(continues[kind_epoch[new]], (stored["code"] > 0).sum(axis=1)[kind_run[new]], 0)
        slot[new] = used + ranks(np.flatnonzero(begins(kind_epoch[new])), len(new))
        is_kept = slot < SLOTS

        so_far = np.minimum(base[kind] + ranks(kind_first, len(kind)) + 1, MOST)
        count = np.empty(len(order), np.int64)
        count[by_pair] = np.where(is_kept[kind], so_far, 1)
        is_line_kept = np.empty(len(order), np.bool_)
        is_line_kept[by_pair] = is_kept[kind]

        newest = running_max(seen.ts[order], run, stored["newest_ms"])
        last = np.append(first[1:], len(order))[: len(first)] - 1
        after = stored.copy()
        after["code"][~continues[epoch[last]]] = 0
        after["count"][~continues[epoch[last]]] = 0
        final = np.flatnonzero(is_kept & (kind_epoch == epoch[last][kind_run]))
        after["code"][kind_run[final], slot[final]] = kind_code[final]
        kind_last = np.append(kind_first[1:], len(kind))[: len(kind_first)] - 1
        after["count"][kind_run[final], slot[final]] = so_far[kind_last[final]]
        after["touched_ms"], after["newest_ms"], after["service"] = now[last], newest[last], seen.service[order[last]]
        after["lines"] = length[last]
        after["is_partial"] = is_partial[epoch[last]]
        self.rows.data[row] = after
        self.rows.is_dirty[row] = True
        return _Lines(
            order,
            key[first],
            first,
            run,
            row,
            stored,
            newest,
            epoch,
            epoch_first,
            continues,
            count,
            length,
            is_line_kept,
            is_partial,
        )

    def _ended(self, seen: Seen, lines: _Lines) -> Vectors:
        """What each ended session had counted when it ended."""
        ends = seen.ends
        if not len(ends):
            return _vectors(0, _slots(lines.stored[:0], np.zeros(0, np.intp)))
        run = np.full(len(ends), -1)
        if len(lines.keys):
            found = np.minimum(np.searchsorted(lines.keys, ends.key), len(lines.keys) - 1)
            run = np.where(lines.keys[found] == ends.key, found, -1)
        newest = _last_before(seen, lines, run)

        # What the rows held before the batch, for sessions that go on from it; then the batch's lines up to the end.
        inside = np.flatnonzero(newest >= 0)
        epoch = lines.epoch[newest[inside]]
        going_on = lines.continues[epoch]
        untouched = np.flatnonzero((newest < 0) & (run >= 0))
        absent = np.flatnonzero(run < 0)
        row = self.rows.find(ends.key[absent])
        absent, row = absent[row >= 0], row[row >= 0]
        is_partial = np.zeros(len(ends), np.bool_)
        is_partial[inside] = lines.is_partial[epoch]
        is_partial[untouched] = lines.stored["is_partial"][run[untouched]]
        is_partial[absent] = self.rows.data["is_partial"][row]
        place, which = spans(lines.epoch_first[epoch], newest[inside] + 1)
        is_kept = lines.is_kept[place]
        place, which = place[is_kept], inside[which[is_kept]]
        cells = (
            _slots(lines.stored[run[inside[going_on]]], inside[going_on]),
            _slots(lines.stored[run[untouched]], untouched),
            _slots(self.rows.data[row], absent),
            (which, seen.code[lines.order[place]], lines.count[place]),
        )
        return _vectors(len(ends), *cells, left_out=is_partial)


def _last_before(seen: Seen, lines: _Lines, run: Places) -> Places:
    """Where in `lines` the last line before each end is; -1 if that came in an earlier batch.

    It is the last line after which the session's newest time and its window are those of the end. Only in a session whose window is full of one
    class, and which goes on after its end with more of that class and no newer time, can that be a line too many.
    """
    ends = seen.ends
    has_run = np.flatnonzero(run >= 0)
    last = np.append(lines.first[1:], len(lines.order))[: len(lines.first)]
    place, which = spans(lines.first[run[has_run]], last[run[has_run]])
    which = has_run[which]
    is_like = (lines.newest[place] == ends.ts[which]) & (seen.code[lines.order[place]] == ends.windows[which, -1])
    place, which = place[is_like], which[is_like]
    is_like = (seen.windows[lines.order[place], 1:] == ends.windows[which, :-1]).all(axis=1)
    found = np.full(len(ends), -1)
    np.maximum.at(found, which[is_like], place[is_like])
    return found


def _slots(stored: npt.NDArray[np.void], which: Places) -> _Cells:
    """The filled slots of some rows; `which` vector each row is."""
    row, slot = np.nonzero(stored["code"])
    return which[row], stored["code"][row, slot].astype(np.int32), stored["count"][row, slot].astype(np.int64)


def _vectors(size: int, *cells: _Cells, left_out: Bools | None = None) -> Vectors:
    """The vectors made of these counts; of several of one class in a vector the greatest. Those left out are empty."""
    which = np.concatenate([part[0] for part in cells])
    code = np.concatenate([part[1] for part in cells])
    count = np.concatenate([part[2] for part in cells])
    pair = which * MAX_CLASSES + code
    order = np.argsort(pair, kind="stable")
    first = np.flatnonzero(begins(pair[order]))
    greatest = np.maximum.reduceat(count[order], first) if len(first) else count
    kept = order[first]
    if left_out is not None:
        is_in = ~left_out[which[kept]]
        kept, greatest = kept[is_in], greatest[is_in]
    start = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(which[kept], minlength=size), out=start[1:])
    return Vectors(start, code[kept], greatest)
