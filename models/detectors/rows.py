"""State of a detector in rows: a numpy record a key, found by a 64-bit key, written as bytes and read back."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import Detector

Places = npt.NDArray[np.intp]
UInt64 = npt.NDArray[np.uint64]

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BHII")  # version, bytes of a record, rows, keys gone


def mix(*parts: npt.NDArray[Any]) -> UInt64:
    """One 64-bit key for each row of some integer columns, such as service and class.

    >>> mix(np.array([7, 7], np.uint64), np.array([1, 2])).tolist()[0] != 0
    True
    """
    key = np.zeros(len(parts[0]), np.uint64)
    for part in parts:  # splitmix64 (Steele et al., Fast splittable pseudorandom number generators, OOPSLA 2014)
        key = (key ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
    return key


class Rows:
    """Fixed-width records by key, at most `bound` of them.

    The record must have an `int64` field `touched_ms`: when the table is full, the eighth of the rows with the oldest
    (touched_ms, key) makes room, and is counted in `evicted`.

    Args:
        record: the numpy record type.
        bound: rows kept at most.

    >>> rows = Rows(np.dtype([("touched_ms", "<i8"), ("count", "<i4")]), bound=100)
    >>> at = rows.at(np.array([5, 9], np.uint64))
    >>> rows.data["count"][at] += 1
    >>> rows.is_dirty[at] = True
    >>> other = Rows(rows.data.dtype, bound=100)
    >>> other.apply(rows.touched())
    >>> other.data["count"][other.at(np.array([9], np.uint64))].tolist()
    [1]
    """

    def __init__(self, record: npt.DTypeLike, bound: int) -> None:
        self.data: npt.NDArray[Any] = np.zeros(0, record)
        self.key: UInt64 = np.zeros(0, np.uint64)
        self.is_used = np.zeros(0, np.bool_)
        self.is_dirty = np.zeros(0, np.bool_)
        self.evicted = 0
        self._bound = bound
        self._row_of: dict[int, int] = {}
        self._free: list[int] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._row_of)

    def at(self, keys: UInt64) -> Places:
        """The rows of these distinct keys; new ones are all zero; `data` is replaced when it grows. Rows changed must be marked in `is_dirty` by the caller."""
        get = self._row_of.get
        rows = np.fromiter((get(key, -1) for key in keys.tolist()), np.intp, len(keys))
        new = np.flatnonzero(rows < 0)
        if len(new):
            if len(self) + len(new) > self._bound:
                self._make_room(len(new), rows[rows >= 0])
            while len(self._free) < len(new):
                self._grow()
            fresh = np.array([self._free.pop() for _ in range(len(new))], np.intp)
            rows[new] = fresh
            self._row_of.update(zip(keys[new].tolist(), fresh.tolist(), strict=True))
            self.key[fresh] = keys[new]
            self.is_used[fresh] = True
            self.data[fresh] = np.zeros(1, self.data.dtype)
        return rows

    def find(self, keys: UInt64) -> Places:
        """The rows of these keys; -1 where there is none."""
        get = self._row_of.get
        return np.fromiter((get(key, -1) for key in keys.tolist()), np.intp, len(keys))

    def drop(self, rows: Places) -> None:
        """Forget these rows."""
        keys = self.key[rows].tolist()
        self._gone.update(keys)
        for key, row in zip(keys, rows.tolist(), strict=True):
            del self._row_of[key]
            self._free.append(row)
        self.is_used[rows] = False
        self.is_dirty[rows] = False

    def drop_service(self, service: int) -> None:
        """Forget a service, by its key; the record has it in its field `service`."""
        self.drop(np.flatnonzero(self.is_used & (self.data["service"] == np.uint64(service))))

    def touched(self) -> bytes:
        """The rows changed since the last call, for `apply`; empty when none did."""
        rows = np.flatnonzero(self.is_dirty)
        gone = np.array(sorted(self._gone), np.uint64)
        self.is_dirty[rows] = False
        self._gone = set()
        return self._encode(rows, gone) if len(rows) or len(gone) else b""

    def to_bytes(self) -> bytes:
        """All rows, for `apply` on an empty table."""
        return self._encode(np.flatnonzero(self.is_used), np.zeros(0, np.uint64))

    def _encode(self, rows: Places, gone: UInt64) -> bytes:
        """`u8 version · u16 bytes of a record · u32 rows · u32 gone · u64 gone[] · u64 key[] · record[]`, little endian."""
        order = rows[np.argsort(self.key[rows])]
        head = _HEAD.pack(_VERSION, self.data.dtype.itemsize, len(rows), len(gone))
        return b"".join(
            (head, gone.astype("<u8").tobytes(), self.key[order].astype("<u8").tobytes(), self.data[order].tobytes())
        )

    def apply(self, data: bytes) -> None:
        """Put in the rows of `to_bytes` or `touched`; several are applied in the order they were made.

        Raises: ValueError for bytes of another version or record.
        """
        if not data:
            return
        version, size, count, gone_count = _HEAD.unpack_from(data)
        if version != _VERSION or size != self.data.dtype.itemsize:
            raise ValueError(
                f"detector state of version {version} and {size} bytes a row, this program reads version {_VERSION} and "
                f"{self.data.dtype.itemsize} bytes: see CHANGELOG.md for the migration"
            )
        at = _HEAD.size
        gone = np.frombuffer(data, "<u8", gone_count, at)
        at += gone.nbytes
        keys = np.frombuffer(data, "<u8", count, at).astype(np.uint64)
        at += keys.nbytes
        known = self.find(gone)
        self.drop(known[known >= 0])
        self._gone = set()
        rows = self.at(keys)  # first, because it may replace `data` by a larger one
        self.data[rows] = np.frombuffer(data, self.data.dtype, count, at)

    def check(self) -> None:
        """Raise AssertionError unless table and look-up agree and the bound holds."""
        assert int(self.is_used.sum()) == len(self._row_of) <= self._bound
        assert len(self._free) + len(self._row_of) == len(self.key)
        assert all(int(self.key[row]) == key and self.is_used[row] for key, row in self._row_of.items())

    def _make_room(self, needed: int, kept: Places) -> None:
        rows = np.setdiff1d(np.flatnonzero(self.is_used), kept)
        oldest = np.lexsort((self.key[rows], self.data["touched_ms"][rows]))
        gone = rows[oldest[: max(needed, self._bound // 8)]]
        self.drop(gone)
        self.evicted += len(gone)

    def _grow(self) -> None:
        old = len(self.key)
        more = max(64, old)
        self.data = np.append(self.data, np.zeros(more, self.data.dtype))
        self.key = np.append(self.key, np.zeros(more, np.uint64))
        self.is_used = np.append(self.is_used, np.zeros(more, np.bool_))
        self.is_dirty = np.append(self.is_dirty, np.zeros(more, np.bool_))
        self._free.extend(range(old + more - 1, old - 1, -1))


class DetectorWithRows(Detector):
    """A detector whose state is one table, whose record has a field `service`.

    State: as its rows say.
    """

    _rows: Rows

    def touched(self) -> bytes:
        """The rows changed since the last call."""
        return self._rows.touched()

    def to_bytes(self) -> bytes:
        """All rows."""
        return self._rows.to_bytes()

    def apply(self, data: bytes) -> None:
        """Put in rows of `to_bytes` or `touched`.

        Raises: ValueError for bytes of another version.
        """
        self._rows.apply(data)

    def drop(self, service: int) -> None:
        """Forget a service, by its key."""
        self._rows.drop_service(service)

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole and within their bound."""
        self._rows.check()
