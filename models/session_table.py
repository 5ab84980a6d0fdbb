"""The rows behind the session windows: numpy columns by row, found by a 64-bit key, written as bytes and read back."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

NEVER = np.iinfo(np.int64).max  # the deadline of a session that may be silent for ever, or whose end has been told
LONG_AGO = -(2**62)  # before any event time, with room to subtract a gap
NONE = -1
_VERSION = 1
_HEAD = struct.Struct("<BBIII")  # version, window length, rows, gone, services


class SessionTable:
    """Sessions and services of a shard, one row each.

    Columns of a session: `key`, `service` (a row of the services), `last_ts`, `deadline`, `history int32[h]`, `line` (its newest
    line's place in the batch at hand, else -1), `notes`. Of a service: `service_key`, `newest`.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.row_of: dict[int, int] = {}
        self.service_row_of: dict[int, int] = {}
        self.key: UInt64 = np.zeros(0, np.uint64)
        self.service: Int32 = np.zeros(0, np.int32)
        self.last_ts: Int64 = np.zeros(0, np.int64)
        self.deadline: Int64 = np.zeros(0, np.int64)
        self.history: Int32 = np.zeros((0, length), np.int32)
        self.line: Int32 = np.zeros(0, np.int32)
        self.notes: list[bytes] = []
        self.is_used: Bools = np.zeros(0, np.bool_)
        self.is_dirty: Bools = np.zeros(0, np.bool_)
        self.service_key: UInt64 = np.zeros(0, np.uint64)
        self.newest: Int64 = np.zeros(0, np.int64)
        self.is_service_dirty: Bools = np.zeros(0, np.bool_)
        self._free: list[int] = []
        self._service_free: list[int] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self.row_of)

    def rows(self, keys: UInt64, service_rows: Int32) -> Int32:
        """The rows of these distinct sessions; new ones are empty."""
        get = self.row_of.get
        rows: Int32 = np.fromiter((get(key, NONE) for key in keys.tolist()), np.int32, len(keys))
        new = np.flatnonzero(rows < 0)
        if len(new):
            while len(self._free) < len(new):
                self._grow()
            fresh: Int32 = np.array([self._free.pop() for _ in range(len(new))], np.int32)
            rows[new] = fresh
            self.row_of.update(zip(keys[new].tolist(), fresh.tolist(), strict=True))
            self.key[fresh] = keys[new]
            self.service[fresh] = service_rows[new]
            self.last_ts[fresh] = LONG_AGO
            self.deadline[fresh] = NEVER
            self.history[fresh] = NONE
            self.is_used[fresh] = True
        return rows

    def service_rows(self, keys: UInt64) -> Int32:
        """The rows of these distinct services; new ones have seen no line."""
        rows: Int32 = np.empty(len(keys), np.int32)
        for i, key in enumerate(keys.tolist()):
            row = self.service_row_of.get(key)
            if row is None:
                if not self._service_free:
                    self._grow_services()
                row = self._service_free.pop()
                self.service_row_of[key] = row
                self.service_key[row] = key
                self.newest[row] = LONG_AGO
            rows[i] = row
        return rows

    def drop(self, rows: Places, *, is_visible: bool) -> None:
        """Free these rows; a visible drop (an eviction) must be repeated on restore.

        So must the drop of a changed row: an older copy of it in the journal may hold a deadline already told.
        """
        told = rows if is_visible else rows[self.is_dirty[rows]]
        self._gone.update(self.key[told].tolist())
        for row, key in zip(rows.tolist(), self.key[rows].tolist(), strict=True):
            del self.row_of[key]
            self.notes[row] = b""
            self._free.append(row)
        self.is_used[rows] = False
        self.is_dirty[rows] = False
        self.deadline[rows] = NEVER
        self.line[rows] = NONE

    def drop_services(self, keep: int) -> None:
        """Forget services without sessions, the longest silent first, until `keep` are left."""
        kept = np.fromiter(self.service_row_of.values(), np.intp, len(self.service_row_of))
        in_use = np.zeros(len(self.newest), np.bool_)
        in_use[self.service[self.is_used]] = True
        idle = kept[~in_use[kept]]
        idle = idle[np.lexsort((self.service_key[idle], self.newest[idle]))]
        for row in idle[: max(0, len(kept) - keep)].tolist():
            self.drop_service(int(self.service_key[row]))

    def drop_service(self, key: int) -> None:
        """Forget a service that has no sessions."""
        row = self.service_row_of.pop(key)
        self._service_free.append(row)
        self.newest[row] = LONG_AGO
        self.is_service_dirty[row] = False

    def put_notes(self, rows: Int32, notes: Iterable[bytes]) -> None:
        """Keep the caller's note on the newest line of each of these rows."""
        for row, note in zip(rows.tolist(), notes, strict=True):
            self.notes[row] = note

    def _grow(self) -> None:
        old = len(self.key)
        more = max(64, old)
        self.key = np.append(self.key, np.zeros(more, np.uint64))
        self.service = np.append(self.service, np.zeros(more, np.int32))
        self.last_ts = np.append(self.last_ts, np.full(more, LONG_AGO, np.int64))
        self.deadline = np.append(self.deadline, np.full(more, NEVER, np.int64))
        self.history = np.append(self.history, np.full((more, self.length), NONE, np.int32), axis=0)
        self.line = np.append(self.line, np.full(more, NONE, np.int32))
        self.is_used = np.append(self.is_used, np.zeros(more, np.bool_))
        self.is_dirty = np.append(self.is_dirty, np.zeros(more, np.bool_))
        self.notes.extend([b""] * more)
        self._free.extend(range(old + more - 1, old - 1, -1))

    def _grow_services(self) -> None:
        old = len(self.newest)
        more = max(16, old)
        self.service_key = np.append(self.service_key, np.zeros(more, np.uint64))
        self.newest = np.append(self.newest, np.full(more, LONG_AGO, np.int64))
        self.is_service_dirty = np.append(self.is_service_dirty, np.zeros(more, np.bool_))
        self._service_free.extend(range(old + more - 1, old - 1, -1))

    # -- bytes -----------------------------------------------------------------------------------------------------

    def touched(self) -> bytes:
        """The rows changed since the last call, for `apply`; empty when none did."""
        rows = np.flatnonzero(self.is_dirty)
        services = np.flatnonzero(self.is_service_dirty)
        gone: UInt64 = np.array(sorted(self._gone), np.uint64)
        self.is_dirty[rows] = False
        self.is_service_dirty[services] = False
        self._gone = set()
        return self._encode(rows, gone, services) if len(rows) or len(services) or len(gone) else b""

    def to_bytes(self) -> bytes:
        """All rows, for `apply` on an empty table; what is pending for `touched` stays pending."""
        services = np.sort(np.fromiter(self.service_row_of.values(), np.intp, len(self.service_row_of)))
        return self._encode(np.flatnonzero(self.is_used), np.zeros(0, np.uint64), services)

    def _encode(self, rows: Places, gone: UInt64, services: Places) -> bytes:
        """The rows as bytes, little endian.

        ```
        u8 version · u8 h · u32 rows · u32 gone · u32 services
        gone      u64[gone]                keys to remove before the rows are put
        rows      u64 key[] · u64 service[] · i64 last_ts[] · i64 deadline[] · i32 history[rows·h] · u32 note length[] · notes
        services  u64 key[] · i64 newest[]
        ```
        """
        notes = [self.notes[row] for row in rows.tolist()]
        return b"".join(
            [
                _HEAD.pack(_VERSION, self.length, len(rows), len(gone), len(services)),
                gone.astype("<u8").tobytes(),
                self.key[rows].astype("<u8").tobytes(),
                self.service_key[self.service[rows]].astype("<u8").tobytes(),
                self.last_ts[rows].astype("<i8").tobytes(),
                self.deadline[rows].astype("<i8").tobytes(),
                self.history[rows].astype("<i4").tobytes(),
                np.array([len(note) for note in notes], "<u4").tobytes(),
                *notes,
                self.service_key[services].astype("<u8").tobytes(),
                self.newest[services].astype("<i8").tobytes(),
            ]
        )

    def apply(self, data: bytes) -> None:
        """Put in the rows of `touched` or `to_bytes`; several are applied in the order they were made.

        Raises: ValueError for bytes of another version or window length.
        """
        if not data:
            return
        version, length, count, gone_count, service_count = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ValueError(
                f"window state has version {version}, this release reads {_VERSION}: restore with the release that wrote it"
            )
        if length != self.length:
            raise ValueError(
                f"window state has length {length}, the settings {self.length}: keep the length, or start without state"
            )
        at = _HEAD.size

        def take(dtype: str, number: int) -> npt.NDArray[np.generic]:
            nonlocal at
            values: npt.NDArray[np.generic] = np.frombuffer(data, dtype, number, at)
            at += values.nbytes
            return values

        gone = take("<u8", gone_count)
        keys = take("<u8", count).astype(np.uint64)
        service_keys = take("<u8", count).astype(np.uint64)
        last_ts = take("<i8", count)
        deadline = take("<i8", count)
        history = take("<i4", count * length).reshape(count, length)
        notes = []
        for size in take("<u4", count).tolist():
            notes.append(data[at : at + size])
            at += size
        services = take("<u8", service_count).astype(np.uint64)
        newest = take("<i8", service_count)

        gone_rows = np.array([self.row_of[key] for key in gone.tolist() if key in self.row_of], np.intp)
        self.drop(gone_rows, is_visible=True)
        if service_count:
            service_rows = self.service_rows(services)
            self.newest[service_rows] = newest
            self.is_service_dirty[service_rows] = True
        if count:
            names, inverse = np.unique(service_keys, return_inverse=True)
            rows = self.rows(keys, self.service_rows(names)[inverse.ravel()])
            self.last_ts[rows] = last_ts
            self.deadline[rows] = deadline
            self.history[rows] = history
            self.is_dirty[rows] = True
            self.put_notes(rows, notes)

    def check(self) -> None:
        """Raise AssertionError unless the columns and the look-ups agree."""
        assert int(self.is_used.sum()) == len(self.row_of)
        assert len(self._free) + len(self.row_of) == len(self.key)
        assert len(self._service_free) + len(self.service_row_of) == len(self.newest)
        assert all(int(self.key[row]) == key and self.is_used[row] for key, row in self.row_of.items())
        assert all(int(self.service_key[row]) == key for key, row in self.service_row_of.items())
        live = set(self.service_row_of.values())
        assert all(int(row) in live for row in self.service[self.is_used])
        assert (self.line == NONE).all()
        assert all(self.notes[row] == b"" for row in np.flatnonzero(~self.is_used).tolist())
