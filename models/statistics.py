"""Counts of each template: how often, when first and last, at which levels."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import DriftwoodError

LEVEL_COLUMNS: Final = 8  # level codes 0 to 6, and one to spare
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<BxxxII")  # version, rows, size of the table
_NEVER_FIRST: Final = np.iinfo(np.int64).max
_NEVER_LAST: Final = np.iinfo(np.int64).min


def grown(array: NDArray[Any], rows: int, fill: int = 0) -> NDArray[Any]:
    """The array itself if it has that many rows, else a longer copy, doubled so that growth stays cheap."""
    if rows <= len(array):
        return array
    longer = np.full((max(rows, 2 * len(array)), *array.shape[1:]), fill, array.dtype)
    longer[: len(array)] = array
    return longer


class TemplateStatistics:
    """One row a template: lines by level, first and last event time.

    Bytes: `version u8 | 3 zero | rows u32 | size u32 | seq u32[rows] | first i64[rows] | last i64[rows] |
    lines i64[rows, 8]`, little-endian; `size` is the number of templates ever made.
    """

    def __init__(self) -> None:
        self.size = 0
        self._lines = np.zeros((64, LEVEL_COLUMNS), np.int64)
        self._first = np.full(64, _NEVER_FIRST, np.int64)
        self._last = np.full(64, _NEVER_LAST, np.int64)
        self._is_touched = np.zeros(64, np.bool_)

    @property
    def lines(self) -> NDArray[np.int64]:
        """Lines by template and level code; int64[K, 8]."""
        return self._lines[: self.size]

    @property
    def first_ts(self) -> NDArray[np.int64]:
        """The earliest event time of each template, ms; int64[K]."""
        return self._first[: self.size]

    @property
    def last_ts(self) -> NDArray[np.int64]:
        """The latest event time of each template, ms; int64[K]."""
        return self._last[: self.size]

    def resize(self, size: int) -> None:
        """Make room for templates up to this many."""
        self.size = max(self.size, size)
        self._lines = grown(self._lines, size)
        self._first = grown(self._first, size, _NEVER_FIRST)
        self._last = grown(self._last, size, _NEVER_LAST)
        self._is_touched = grown(self._is_touched, size)

    def count(self, seq: NDArray[np.int32], ts: NDArray[np.int64], level: NDArray[np.uint8]) -> None:
        """Count a batch of lines.

        Shapes: seq int32[N], ts int64[N], level uint8[N].
        """
        is_here = np.zeros(self.size, np.bool_)
        is_here[seq] = True
        rows = np.flatnonzero(is_here)
        rank = np.empty(self.size, np.int64)
        rank[rows] = np.arange(len(rows))
        cells = rank[seq] * LEVEL_COLUMNS + np.minimum(level, LEVEL_COLUMNS - 1)
        self._lines[rows] += np.bincount(cells, minlength=len(rows) * LEVEL_COLUMNS).reshape(-1, LEVEL_COLUMNS)
        np.minimum.at(self._first, seq, ts)
        np.maximum.at(self._last, seq, ts)
        self._is_touched[rows] = True

    def clear(self, seqs: list[int]) -> None:
        """Take the rows of forgotten templates back to nothing."""
        self._lines[seqs] = 0
        self._first[seqs] = _NEVER_FIRST
        self._last[seqs] = _NEVER_LAST
        self._is_touched[seqs] = True

    def touched(self) -> bytes:
        """The rows changed since the last call."""
        rows = np.flatnonzero(self._is_touched[: self.size])
        self._is_touched[rows] = False
        return self._pack(rows)

    def to_bytes(self) -> bytes:
        """Every row that ever counted a line."""
        return self._pack(np.flatnonzero(self._last[: self.size] != _NEVER_LAST))

    def apply(self, data: bytes) -> None:
        """Take over rows written by `touched` or `to_bytes`.

        Raises: DriftwoodError if the bytes are of another version.
        """
        version, count, size = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise DriftwoodError(f"template statistics have version {version}, this program reads {_VERSION}.")
        self.resize(size)
        at = _HEADER.size
        rows = np.frombuffer(data, "<u4", count, at)
        times = np.frombuffer(data, "<i8", 2 * count, at + 4 * count).reshape(2, count)
        self._first[rows], self._last[rows] = times
        self._lines[rows] = np.frombuffer(data, "<i8", count * LEVEL_COLUMNS, at + 20 * count).reshape(
            count, LEVEL_COLUMNS
        )

    def _pack(self, rows: NDArray[np.int64]) -> bytes:
        parts = (rows.astype("<u4"), self._first[rows], self._last[rows], self._lines[rows])
        return _HEADER.pack(_VERSION, len(rows), self.size) + b"".join(part.tobytes() for part in parts)
