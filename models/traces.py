"""Stack traces that came line by line, put together again: which lines continue the one before, and what the trace is about.

```
lines of a batch ── one regular expression over the column ──→ candidates ── by key, in source order ──→ is_part, traces that ended
                     (an ordinary line costs this and no more)                   └── one open trace a key (state)
```

A *head* is the line that a trace hangs on: the log line it was printed under (`ERROR checkout failed`), or its own first line where there is
none (`panic: …`). All lines after it are *parts*. A part is no line of its own: it says nothing that a template should be made of.

Keys are told apart by the caller: service, host and stream. What the lines of a trace look like is in `models/trace_forms.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import xxhash

from models.parsing.levels import NONE, WARN
from models.trace_forms import MAX_NAME, Before, Mark, Scene, candidates, read_line, type_in

VERSION: Final = 1

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_MAX_EXCEPTIONS: Final = 8
_MAX_SECTIONS: Final = 4  # causes whose frames are kept
_MAX_FRAMES: Final = 5  # of each


@dataclass(frozen=True)
class TraceParams:
    """Bounds of a trace, and of what is kept.

    Attributes:
        max_lines, max_chars: a trace that reaches them ends; the line after it stands on its own.
        max_text_chars: of the trace, kept for people.
        max_gap_ms: event time between two lines of a trace; max_ms: of the whole.
        max_between: lines of other threads that may stand between two lines of a trace.
        max_keys: keys whose newest line is known; the one quiet for longest is forgotten first.
    """

    max_lines: int = 1_000
    max_chars: int = 1 << 18
    max_text_chars: int = 8_192
    max_gap_ms: int = 2_000
    max_ms: int = 30_000
    max_between: int = 2
    max_keys: int = 20_000

    def build(self, state: bytes = b"") -> Traces:
        """Empty, or as `to_bytes` left it."""
        return Traces(self, state)


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace that has ended.

    Attributes:
        key: whose it is.
        label: what the caller calls that.
        origin: what the caller knows its head by.
        ts: event time of the first line that is the trace's own, ms.
        lines: the head among them.
        exceptions: the types, in the order they were printed.
        frames: functions, without line numbers and addresses: the nearest to the fault of each of the first causes.
        fingerprint: 16 hex digits of the two; equal for equal faults, whatever the line numbers, messages and addresses.
        text: the lines without the head, up to a bound.
    """

    key: int
    label: str
    origin: int
    ts: int
    lines: int
    exceptions: tuple[str, ...]
    frames: tuple[str, ...]
    fingerprint: str
    text: str


@dataclass(frozen=True, slots=True)
class TraceStep:
    """What a batch gave.

    Attributes:
        is_part: bool[N]; the line continues an earlier one.
        head: int64[N]; the origin of the line that it hangs on, its own where it is no part.
        ended: the traces of which no more will come.
    """

    is_part: Bools
    head: I64
    ended: list[Trace]


@dataclass(slots=True)
class _Open(Scene):
    """A trace under way."""

    label: str = ""
    origin: int = 0
    ts: int = 0
    last_ts: int = 0
    lines: int = 1
    size: int = 0
    exceptions: list[str] = field(default_factory=list)
    sections: list[list[str]] = field(default_factory=list)
    text: str = ""

    def name(self, exception: str | None) -> None:
        """An exception's type."""
        if exception and len(self.exceptions) < _MAX_EXCEPTIONS:
            self.exceptions.append(exception[:MAX_NAME])

    def cause(self) -> None:
        """Frames from now on are those of another exception."""
        if len(self.sections) <= _MAX_SECTIONS:
            self.sections.append([])

    def frame(self, function: str) -> None:
        """One more frame; Python prints the nearest one last."""
        self.has_frames = True
        if not self.sections:
            self.sections.append([])
        if len(self.sections) > _MAX_SECTIONS:
            return
        frames = self.sections[-1]
        frames.append(function[:MAX_NAME])
        if len(frames) > _MAX_FRAMES:
            frames.pop(0 if self.language == "python" else -1)

    def add(self, mark: Mark) -> None:
        """What a line tells of the trace."""
        self.language = mark.language or self.language
        if mark.is_cause:
            self.cause()
        self.name(mark.exception)
        if mark.frame:
            self.frame(mark.frame)
        self.has_frames |= mark.is_frame
        if mark.awaits_type is not None:
            self.awaits_type = mark.awaits_type
        if mark.in_braces is not None:
            self.in_braces = mark.in_braces
        self.is_chained, self.is_named = mark.is_chained, bool(mark.exception)

    def ended(self, key: int) -> list[Trace]:
        """The trace, if it is one: a line alone that only looked like a beginning is none."""
        if self.lines < 2:
            return []
        frames = tuple(frame for section in self.sections[:_MAX_SECTIONS] for frame in section)
        told = "\n".join((*self.exceptions, "", *frames))
        fingerprint = xxhash.xxh3_64_hexdigest(told.encode())
        return [
            Trace(
                key,
                self.label,
                self.origin,
                self.ts,
                self.lines,
                tuple(self.exceptions),
                frames,
                fingerprint,
                self.text,
            )
        ]


class Traces:
    """Joins the traces of all keys of a shard.

    State: by key its newest line, and an open trace of at most `max_text_chars` and some hundred bytes; `max_keys` of them.
    """

    def __init__(self, params: TraceParams, state: bytes = b"") -> None:
        self.params = params
        self._last: dict[int, Before] = {}
        self._open: dict[int, _Open] = {}
        self._touched: set[int] = set()
        if state:
            self.apply(state)

    # ---- one batch

    def step(
        self,
        key: U64,
        origin: I64,
        ts: I64,
        level: U8,
        messages: pa.LargeStringArray,
        labels: Mapping[int, str] | None = None,
    ) -> TraceStep:
        """Tell lines from parts of traces.

        Args:
            key: uint64[N], of service, host and stream; lines of a key in source order.
            origin: int64[N], what the caller knows each line by.
            ts: int64[N], event time in ms.
            level: uint8[N], as `models.parsing.LEVELS`.
            messages: the redacted messages, N.
            labels: what to call a key in the traces that end, by key.
        """
        size = len(key)
        is_part, head = np.zeros(size, np.bool_), origin.copy()
        ended: list[Trace] = []
        if not size:
            return TraceStep(is_part, head, ended)
        batch = _Batch(origin, ts, level, messages, labels or {}, is_part, head, np.zeros(size, np.bool_))
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        ends = np.append(np.flatnonzero(sorted_key[1:] != sorted_key[:-1]) + 1, size)
        starts = np.append(0, ends[:-1])
        hits = np.flatnonzero(candidates(messages)[order])
        first_hit, end_hit = np.searchsorted(hits, starts), np.searchsorted(hits, ends)
        # By their newest lines: which key is quiet for longest must not hang on the numbers of the keys.
        for at in np.argsort(order[ends - 1]).tolist():
            name = int(sorted_key[starts[at]])
            rows, looked_at = order[starts[at] : ends[at]], hits[first_hit[at] : end_hit[at]] - starts[at]
            ended += self._key(name, batch, rows, looked_at.tolist())
        while len(self._last) > self.params.max_keys:
            ended += self._forget(next(iter(self._last)))
        return TraceStep(is_part, head, ended)

    def _key(self, key: int, batch: _Batch, rows: I64, hits: list[int]) -> list[Trace]:
        """The lines of one key: those that look like a trace's, and while a trace is open all."""
        ended: list[Trace] = []
        opened = self._open.pop(key, None)
        last = self._last.pop(key, None)
        at, next_hit = 0, 0
        while True:
            if opened is None:
                while next_hit < len(hits) and hits[next_hit] < at:
                    next_hit += 1
                if next_hit == len(hits):
                    break
                at = hits[next_hit]
            if at == len(rows):
                break
            before = last if at == 0 else batch.line(int(rows[at - 1]))
            opened, done = self._line(key, opened, before, batch, int(rows[at]))
            ended += done
            at += 1
        self._last[key] = batch.line(int(rows[-1]))
        if opened is not None:
            self._open[key] = opened
        self._touched.add(key)
        return ended

    def _line(
        self, key: int, opened: _Open | None, before: Before | None, batch: _Batch, row: int
    ) -> tuple[_Open | None, list[Trace]]:
        """One line: the trace that is open after it, and the one that it ended."""
        ts, level = int(batch.ts[row]), int(batch.level[row])
        message = batch.message(row)
        ended: list[Trace] = []
        if opened is not None and self._is_over(opened, ts, len(message)):
            ended, opened = opened.ended(key), None
        is_near = before is not None and abs(ts - before.ts) <= self.params.max_gap_ms
        mark = read_line(message, opened, level, before if is_near else None)
        if mark is None:
            if opened is not None:
                opened.between += 1
                if opened.between > self.params.max_between:
                    return None, ended + opened.ended(key)
            return opened, ended
        if opened is not None and mark.place != "part":
            ended, opened = ended + opened.ended(key), None
        if opened is None:
            label = batch.labels.get(key, "")
            if mark.place != "head" and before is not None and is_near and before.is_plain:
                opened = _Open(label=label, origin=before.origin, ts=ts, last_ts=ts)
                opened.name(before.exception)
            else:
                opened = _Open(label=label, origin=int(batch.origin[row]), ts=ts, last_ts=ts)
        batch.is_trace[row] = True
        if opened.origin != batch.origin[row]:
            batch.is_part[row], batch.head[row] = True, opened.origin
            opened.lines += 1
            if len(opened.text) < self.params.max_text_chars:
                opened.text = f"{opened.text}\n{message}"[: self.params.max_text_chars].lstrip("\n")
        opened.size += len(message)
        opened.last_ts, opened.between = ts, 0
        opened.add(mark)
        return opened, ended

    def _is_over(self, opened: _Open, ts: int, size: int) -> bool:
        params = self.params
        return (
            abs(ts - opened.last_ts) > params.max_gap_ms
            or abs(ts - opened.ts) > params.max_ms
            or opened.lines >= params.max_lines
            or opened.size + size > params.max_chars
        )

    def _forget(self, key: int) -> list[Trace]:
        del self._last[key]
        self._touched.add(key)
        opened = self._open.pop(key, None)
        return [] if opened is None else opened.ended(key)

    def flush(self, now_ms: int) -> list[Trace]:
        """The traces that have ended because nothing came for so long, and forget keys as old; `now_ms` is event time.

        It changes which traces are told when, never which line is a part.
        """
        horizon = now_ms - 2 * self.params.max_gap_ms
        return [
            trace
            for key in [key for key, last in self._last.items() if last.ts < horizon]
            for trace in self._forget(key)
        ]

    # ---- state

    def to_bytes(self) -> bytes:
        """All keys: `u8 version · JSON [[key, [origin, ts, level, is_plain, exception], open], …]`, the key quiet for longest first."""
        return self._packed(self._last)

    def touched(self) -> bytes:
        """The keys that changed since the last call, in the form of `to_bytes`; one that is gone has nulls. Empty if none did."""
        changed = [key for key in self._last if key in self._touched]
        gone = sorted(self._touched.difference(self._last))
        self._touched = set()
        return self._packed((*gone, *changed)) if gone or changed else b""

    def _packed(self, keys: Iterable[int]) -> bytes:
        rows = []
        for key in keys:
            last, opened = self._last.get(key), self._open.get(key)
            line = None if last is None else (last.origin, last.ts, last.level, last.is_plain, last.exception)
            rows.append((key, line, None if opened is None else asdict(opened)))
        return bytes((VERSION,)) + orjson.dumps(rows)

    def apply(self, data: bytes) -> None:
        """Take over what `to_bytes` or `touched` gave.

        Raises:
            ValueError: the bytes are of another version.
        """
        if data[0] != VERSION:
            raise ValueError(
                f"traces of version {data[0]}, this program reads {VERSION}: see CHANGELOG.md for the migration"
            )
        for key, last, opened in orjson.loads(data[1:]):
            self._last.pop(key, None)
            self._open.pop(key, None)
            if last is not None:
                self._last[key] = Before(*last)
            if opened is not None:
                self._open[key] = _Open(**opened)

    def check(self) -> None:
        """Passes while the state keeps its bounds."""
        assert len(self._last) <= self.params.max_keys
        assert self._open.keys() <= self._last.keys()
        for opened in self._open.values():
            assert opened.lines <= self.params.max_lines
            assert len(opened.text) <= self.params.max_text_chars
            assert len(opened.sections) <= _MAX_SECTIONS + 1
            assert len(opened.exceptions) <= _MAX_EXCEPTIONS


@dataclass(frozen=True, slots=True)
class _Batch:
    """The columns of a batch, and what is found out about them."""

    origin: I64
    ts: I64
    level: U8
    messages: pa.LargeStringArray
    labels: Mapping[int, str]
    is_part: Bools
    head: I64
    is_trace: Bools

    def message(self, row: int) -> str:
        return str(self.messages[row].as_py())

    def line(self, row: int) -> Before:
        """A line as the one after it sees it."""
        is_plain = not self.is_trace[row]
        exception = type_in(self.message(row)) if is_plain else ""
        return Before(int(self.origin[row]), int(self.ts[row]), int(self.level[row]), is_plain, exception)


def read_trace(message: str) -> Trace | None:
    r"""The trace inside one message of several lines, None where there is none.

    >>> read_trace("checkout failed\njava.lang.IllegalStateException: no stock\n\tat shop.Cart.add(Cart.java:42)").exceptions
    ('java.lang.IllegalStateException',)
    """
    lines = [line for line in message.split("\n") if line.strip()]
    size = len(lines)
    traces = TraceParams(max_between=size).build()
    step = traces.step(
        np.zeros(size, np.uint64),
        np.arange(size, dtype=np.int64),
        np.zeros(size, np.int64),
        np.where(np.arange(size) == 0, WARN, NONE).astype(np.uint8),
        pa.array(lines, pa.large_string()),
    )
    found = [*step.ended, *traces.flush(1 << 60)]
    return max(found, key=lambda trace: trace.lines, default=None)
